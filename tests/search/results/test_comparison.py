"""The best trial of each family is compared with the best of all: the same clips, the one rule for many trials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from features.clips.synthetic_corpus import make_corpus
from search.cli.study.status import status_of
from search.results.comparison import Comparison, as_json
from tests.support.ended_trials import end, page_of, scored

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]


@pytest.fixture(scope="module")
def enough_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with six validation clips of each label and machine ID: metrics have intervals."""
    root = tmp_path_factory.mktemp("enough") / "sounds"
    make_corpus(root, train_clips=2, test_clips=12, seconds=0.5)
    return root


@pytest.fixture
def two_families(tiny_study: MakeStudy, enough_clips: Path) -> TinyStudy:
    """The baseline is of the family quick, the next trial of the family vae."""
    vae = {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 64}, "z_dim": 2}
    return tiny_study(
        corpus={"root": str(enough_clips)},
        model=[vae, {"family": "quick", "width": {"low": 8, "high": 64}}],
        baseline={"family": "quick", "width": 16},
        search={"trials": 2, "pruner": "none", "first": [{"family": "vae", "h_dim": 16}]},
    )


def compared(tiny: TinyStudy) -> Comparison:
    _, comparison = status_of(tiny.storage, tiny.stored)
    assert comparison is not None
    return comparison


@pytest.mark.parametrize(("wrong", "is_told"), [(1, False), (9, True)])
def test_a_family_is_behind_the_best_by_a_paired_difference_with_its_interval(
    two_families: TinyStudy, wrong: int, is_told: bool
) -> None:
    end(two_families, scored(two_families, wrong=wrong))
    end(two_families, scored(two_families, wrong=0))

    comparison = compared(two_families)

    (family,) = comparison.over_families
    gain = comparison.over_families[family]
    assert family == "quick"
    assert gain == comparison.gain, "its best trial is the baseline: one pair of trials has one difference"
    assert gain.difference == pytest.approx(wrong / 18)
    assert gain.interval is not None
    assert gain.interval.includes(gain.difference)
    assert gain.interval.includes(0) == (not is_told)
    assert gain.may_be_chance == (not is_told) == (0 in comparison.ties)


@pytest.mark.parametrize(("wrong", "remark"), [(1, "tie"), (9, "told apart")])
def test_report_and_json_show_how_far_a_family_is_behind(two_families: TinyStudy, wrong: int, remark: str) -> None:
    end(two_families, scored(two_families, wrong=wrong))
    end(two_families, scored(two_families, wrong=0))
    status, comparison = status_of(two_families.storage, two_families.stored)
    assert comparison is not None
    gain = comparison.over_families["quick"]
    assert gain.interval is not None

    page = page_of(two_families)
    behind = {family["name"]: family["behind_best"] for family in as_json(status, comparison)["families"]}

    low, high = gain.interval
    assert page.row("quick")[6:] == [f"{wrong / 18:.3f}", f"{low:+.3f} to {high:+.3f}", remark]
    assert page.row("vae")[6:] == ["—", "—", "the best"]
    assert "The interval, and what is told apart, allow for this being the best of 2 trials." in page.text
    assert behind == {
        "vae": None,
        "quick": {"difference": gain.difference, "interval": [low, high], "told": remark == "told apart"},
    }


def test_a_family_without_a_complete_trial_is_compared_with_nothing(two_families: TinyStudy) -> None:
    end(two_families, None, "failed", reason="diverged")
    end(two_families, scored(two_families, wrong=0))

    assert compared(two_families).over_families == {}
    assert page_of(two_families).row("quick")[4:] == ["—", "—", "—", "—", ""]
    assert "Behind the best:" not in page_of(two_families).text
