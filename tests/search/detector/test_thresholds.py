"""Thresholds promise what their withheld clips can give, and are moved without training."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from features.clips.corpus import read_corpus
from models.settings import ScoringSettings
from search import api
from search.detector.bundle import load_bundle, save_bundle
from search.detector.detector import Detector
from search.detector.threshold_card import threshold_section, with_section
from search.detector.threshold_move import at_false_alarm_rate, move_thresholds
from search.detector.thresholds import HeldOutScores, Threshold, ThresholdScores, doubts
from search.errors import BundleError, MisuseError, TrialFailure
from search.evaluation.decisions import Decisions
from search.evaluation.truth import Truth
from search.study.recipe import Recipe
from tests.support.detectors import detector_of, make_older

if TYPE_CHECKING:
    from tests.support.command import Ran

    Offkey = Callable[..., Ran]

SCORES = ThresholdScores(
    withheld={"fan/00": tuple(map(float, range(20))), "fan/02": (1.0, 2.0, 3.0)},
    test={"fan/00": HeldOutScores(normal=(0.0, 30.0), anomaly=(40.0, 50.0, 60.0))},
)


@pytest.fixture(scope="module")
def detector(corpus_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """Shared: nobody changes it. Of six training clips of each ID three are withheld."""
    recipe = {"study": "levels", "features": {"n_mels": 32}, "model": {"family": "stat"}}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OFFKEY_CACHE", str(tmp_path_factory.mktemp("cache")))
        training = {"calibration_share": 0.5}
        return detector_of(
            Recipe.model_validate({**recipe, "corpus": {"root": str(corpus_root)}, "training": training}),
            read_corpus(corpus_root),
            torch.device("cpu"),
        )


@pytest.fixture
def bundle(detector: Detector, tmp_path: Path) -> Path:
    save_bundle(detector, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.parametrize(
    ("rate", "of_00", "of_02"),
    [
        (0.5, Threshold(10.0, clips=20, above=9), Threshold(2.0, clips=3, above=1)),
        (0.25, Threshold(15.0, clips=20, above=4), Threshold(3.0, clips=3, above=0)),
        (0.02, Threshold(19.0, clips=20, above=0), Threshold(3.0, clips=3, above=0)),
    ],
)
def test_a_threshold_tells_what_its_clips_can_promise(rate: float, of_00: Threshold, of_02: Threshold) -> None:
    assert SCORES.thresholds(ScoringSettings(false_alarm_rate=rate)) == {"fan/00": of_00, "fan/02": of_02}
    assert of_00.rate == (of_00.above + 1) / 21
    assert of_00.interval == tuple(binomtest(of_00.above, 20).proportion_ci(0.95, method="exact"))


def test_a_rate_that_so_few_clips_cannot_give_is_refused_with_the_rate_that_they_can() -> None:
    with pytest.raises(MisuseError, match=r"0\.02 takes 49 withheld .* but fan/02 has 3, fan/00 has 20\. .* is 0\.25"):
        SCORES.require(0.02, nearest=False)

    SCORES.require(0.02, nearest=True)
    SCORES.require(0.25, nearest=False)


@pytest.mark.parametrize("clips", [1, 6, 14, 20, 1234])
def test_the_rate_that_the_error_names_is_not_refused(clips: int) -> None:
    scores = ThresholdScores(withheld={"fan/00": tuple(map(float, range(clips)))})
    with pytest.raises(MisuseError) as error:
        scores.require(0.0001, nearest=False)

    named = re.search(r"can give is ([\d.]+):", str(error.value))
    assert named is not None
    scores.require(float(named[1]), nearest=False)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("nearest", [False, True])
def test_what_is_no_rate_is_refused(rate: float, nearest: bool) -> None:
    with pytest.raises(MisuseError, match="must be above 0 and below 1, but got"):
        SCORES.require(rate, nearest=nearest)


def test_one_withheld_clip_an_id_calls_half_of_the_normal_clips_faulty_and_it_is_said() -> None:
    thresholds = ThresholdScores(withheld={"fan/00": (1.0,)}).thresholds(ScoringSettings())

    (doubt,) = doubts(thresholds, 0.1)

    assert doubt.startswith(
        "Thresholds of fan/00 cannot promise a false-alarm rate of 0.1, which takes 9 withheld clips of each machine "
        "ID: they have 1, and call up to 50 % of normal clips faulty on average"
    )


@pytest.mark.parametrize(
    ("clips", "rate", "doubt"),
    [(9, 0.1, "Thresholds of fan/00 rest on fewer than ten clips each"), (10, 0.1, None), (10, 0.05, "cannot promise")],
)
def test_doubts_are_of_few_clips(clips: int, rate: float, doubt: str | None) -> None:
    found = list(doubts({"fan/00": Threshold(1.0, clips, 0)}, rate))

    assert len(found) == (doubt is not None)
    assert doubt is None or doubt in found[0]


def test_test_clips_are_counted_where_there_is_a_threshold() -> None:
    assert SCORES.decisions({"fan/00": 30.0, "fan/02": 2.0}) == {"fan/00": Decisions(2, 0, 3, 3)}
    assert SCORES.decisions({"fan/00": 29.0}) == {"fan/00": Decisions(2, 1, 3, 3)}
    assert SCORES.decisions({"fan/02": 29.0}) is None


def test_scores_that_are_not_finite_fail_the_training() -> None:
    truth = Truth(("fan/00", "fan/00"), (0, 1))

    with pytest.raises(TrialFailure, match="scores of withheld clips are not finite"):
        ThresholdScores.of((np.array([np.nan]), ["fan/00"]), None)
    with pytest.raises(TrialFailure, match="scores of test clips are not finite"):
        ThresholdScores.of((np.array([1.0]), ["fan/00"]), (np.array([1.0, np.inf]), truth))


def test_scores_are_grouped_by_machine_id_and_label() -> None:
    truth = Truth(("fan/02", "fan/00", "fan/02"), (0, 1, 1))

    scores = ThresholdScores.of((np.array([1.0, 2.0, 3.0]), ["b", "a", "b"]), (np.array([4.0, 5.0, 6.0]), truth))

    assert scores.withheld == {"a": (2.0,), "b": (1.0, 3.0)}
    assert scores.test == {
        "fan/00": HeldOutScores(normal=(), anomaly=(5.0,)),
        "fan/02": HeldOutScores(normal=(4.0,), anomaly=(6.0,)),
    }


def test_a_move_gives_the_thresholds_that_training_at_this_rate_would_have_given(
    bundle: Path, detector: Detector
) -> None:
    rate = 0.5
    trained = detector.scores.thresholds(detector.recipe.scoring.model_copy(update={"false_alarm_rate": rate}))

    moved = move_thresholds(bundle, rate)

    loaded = load_bundle(bundle)
    assert moved.thresholds == trained
    assert loaded.thresholds == {name: threshold.value for name, threshold in trained.items()} != detector.thresholds
    assert loaded.false_alarm_rate == rate
    assert loaded.scores == detector.scores


def test_the_bundle_and_its_card_say_that_thresholds_were_moved(bundle: Path) -> None:
    with (bundle / "README.md").open("a") as card:
        card.write("\n## Ours\n\nIt hangs in hall 7.\n")
    before = (bundle / "README.md").read_text().partition("## Thresholds")[0]

    for rate in (0.5, 0.3):
        moved = move_thresholds(bundle, rate)

    looks = json.loads((bundle / "detector.json").read_text())["looks"]
    assert [look["false_alarm_rate"] for look in looks] == [0.5, 0.3]
    assert moved.decided is not None
    assert looks[1]["decisions"]["found"] == moved.decided.found
    card_now = (bundle / "README.md").read_text()
    assert card_now.startswith(before)
    assert card_now.endswith("\n## Ours\n\nIt hangs in hall 7.\n")
    assert card_now.count("## Thresholds") == 1
    assert "moved by the withheld scores to a false-alarm rate of 0.5, then 0.3: 2 more test evaluations" in card_now
    assert f"{moved.decided.in_words}." in card_now
    assert "Thresholds aim at a false-alarm rate of 0.3:" in card_now


def test_a_move_that_is_refused_changes_nothing(bundle: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}

    with pytest.raises(MisuseError, match=r"0\.1 takes 9 withheld .* has 3"):
        move_thresholds(bundle, 0.1)

    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_the_nearest_is_the_highest_withheld_score(bundle: Path, detector: Detector) -> None:
    moved = move_thresholds(bundle, 0.01, nearest=True)

    assert {name: of.value for name, of in moved.thresholds.items()} == {
        name: max(scores) for name, scores in detector.scores.withheld.items()
    }


def test_a_run_s_thresholds_leave_the_bundle_as_it_is(bundle: Path) -> None:
    before = (bundle / "detector.json").read_bytes()
    loaded = load_bundle(bundle)

    moved = at_false_alarm_rate(loaded, 0.5)

    assert moved.thresholds != loaded.thresholds
    assert (bundle / "detector.json").read_bytes() == before


@pytest.mark.parametrize(
    "move", [lambda place: move_thresholds(place, 0.5), lambda place: at_false_alarm_rate(load_bundle(place), 0.5)]
)
def test_a_detector_of_an_earlier_version_has_no_scores_to_move_by(bundle: Path, move: Callable[[Path], Any]) -> None:
    make_older(bundle)

    with pytest.raises(BundleError, match="cannot be moved: an earlier Offkey wrote the detector"):
        move(bundle)


def test_without_withheld_clips_there_are_no_thresholds_to_move() -> None:
    section = threshold_section(ScoringSettings(), {}, None)

    assert "There are none, since no training clip was withheld" in section
    assert with_section("# A detector\n", section) == f"# A detector\n\n{section}"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_another_section_leaves_what_people_wrote(end: str) -> None:
    card = end.join(["# A detector", "", "## Thresholds", "", "Old.", "", "### Our notes", "", "Keep.", ""])

    moved = with_section(card, "## Thresholds\n\nNew.\n")

    assert moved == card.replace("Old.", "New.")


def test_a_fitted_threshold_whose_clips_tell_of_a_higher_rate_is_doubted() -> None:
    (doubt,) = doubts({"fan/00": Threshold(1.0, 16, 3), "fan/02": Threshold(1.0, 16, 1)}, 0.2)

    assert doubt.startswith("Thresholds of fan/00 lie at quantiles of a fitted distribution, which promise no rate")
    assert "up to 24 % of normal clips faulty, and 0.2 was asked for" in doubt


def test_a_bundle_that_cannot_be_written_is_an_error_that_says_so(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("search.detector.threshold_move.tempfile.mkstemp", full)

    with pytest.raises(BundleError, match="bundle cannot be written: .*No space left on device"):
        move_thresholds(bundle, 0.5)
    assert load_bundle(bundle).false_alarm_rate == 0.1


def test_the_command_shows_what_the_moved_thresholds_promise_and_decide(bundle: Path, offkey: Offkey) -> None:
    ran = offkey("threshold", bundle, "--false-alarm-rate", "0.5")

    assert ran.code == 0, ran.stderr
    assert re.search(r"compressor/00 +[\d.e-]+ +3 +0\.500 +0\.008 to 0\.906 +\d of 3 +\d of 3", ran.stdout)
    assert re.search(r"Of 9 normal test clips \d w\w+ called faulty", ran.stdout)
    assert "1 more test evaluation" in ran.stdout
    assert "rest on fewer than ten clips each" in ran.stderr
    as_json = json.loads(offkey("threshold", bundle, "--false-alarm-rate", "0.1", "--nearest", "--json").stdout)
    assert as_json.keys() == {"bundle", "false_alarm_rate", "thresholds", "decisions", "looks"}
    assert (as_json["looks"], as_json["thresholds"]["compressor/00"]["rate"]) == (2, 0.25)


@pytest.mark.parametrize("command", [("threshold",), ("score", "clips")])
def test_the_commands_refuse_alike(bundle: Path, offkey: Offkey, command: tuple[str, ...]) -> None:
    name, *paths = command

    ran = offkey(name, bundle, *paths, "--false-alarm-rate", "0.1")

    assert (ran.code, ran.stdout) == (2, "")
    assert "takes 9 withheld normal clips of each machine ID" in ran.stderr
    assert "With --nearest" in ran.stderr


def test_nearest_alone_is_for_nothing(bundle: Path, offkey: Offkey) -> None:
    ran = offkey("score", bundle, "clips", "--nearest")

    assert (ran.code, "--nearest is for --false-alarm-rate R" in ran.stderr) == (2, True)


def test_score_decides_by_another_rate_for_one_run(bundle: Path, corpus_root: Path, offkey: Offkey) -> None:
    before = (bundle / "detector.json").read_bytes()
    folder = corpus_root / "compressor" / "test"

    ran = offkey("score", bundle, folder, "--false-alarm-rate", "0.5")

    assert ran.code == 0, ran.stderr
    moved = api.at_false_alarm_rate(api.load_bundle(bundle), 0.5)
    rows = list(csv.DictReader(ran.stdout.splitlines()))
    assert [int(row["decision"]) for row in rows] == [row.decision for row in api.score(moved, folder)]
    assert all(
        int(row["decision"]) == (float(row["score"]) > moved.thresholds[f"compressor/{row['machine_id']}"])
        for row in rows
    )
    assert (bundle / "detector.json").read_bytes() == before
