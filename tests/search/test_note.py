"""The study's note in the dashboard: what it says, and whose words stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
from optuna_dashboard import get_note, save_note
from sqlalchemy import event

from search.evaluation import Scores, Truth, mean_auc
from search.note import write_note

if TYPE_CHECKING:
    from tests.search.conftest import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

THIRD, TWO_THIRDS = 1 / 3, 2 / 3

LINE = "\n\n---\n*Offkey writes what is above this line; below it is yours.*"

ABOUT = """\
# tiny

A search for the model (vae) that best tells a faulty machine's sound from a healthy one's: 3 trials, sampler tpe, pruner none.

**Data**: compressor, 3 machine IDs, 54 clips.

**Split**: 9 normal and 9 anomalous clips, 50 % of each ID's labelled ones, steer the search. No trial sees the rest: \
they are for the final detector alone.

| open setting | range |
|---|---|
| `h_dim` | 8 to 64 |

"""  # noqa: E501


def optuna_study(study: TinyStudy) -> optuna.Study:
    return optuna.load_study(study_name=study.stored.name, storage=study.storage)


def note_of(study: TinyStudy) -> str:
    write_note(study.storage, study.stored, optuna_study(study))
    return str(get_note(optuna_study(study)))


def scores_of(truth: Truth, auc: float) -> Scores:
    """Of each ID's three anomalies so many are above all normal clips, the others below, that its AUC is this."""
    scores = np.zeros(len(truth.ids))
    for name in set(truth.ids):
        anomalies = [n for n, key in enumerate(zip(truth.ids, truth.labels, strict=True)) if key == (name, 1)]
        scores[anomalies] = -1.0
        scores[anomalies[: round(auc * len(anomalies))]] = 1.0
    return scores


def end_trials(study: TinyStudy, aucs: Sequence[float | None]) -> None:
    """So many ended trials, as workers leave them; None is a pruned one."""
    for auc in aucs:
        claim = study.storage.claim(study.stored.study_id, "worker", first={})
        assert claim is not None
        scores = scores_of(study.stored.truth, auc or 0.0)
        state: Any = "pruned" if auc is None else "complete"
        study.storage.finish(claim, state, value=mean_auc(scores, study.stored.truth), scores=scores)


def test_it_says_what_is_searched_on_which_data_with_which_split_and_what_came_of_it(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    end_trials(study, [0.0, TWO_THIRDS, THIRD])

    assert note_of(study) == (
        f"{ABOUT}**Result**: trial 1 leads with a validation AUC of 0.667 (95 % interval 0.333 to 0.889). "
        f"Over the baseline (0.000): +0.667 (95 % interval 0.333 to 0.889), a gain.{LINE}\n"
    )


@pytest.mark.parametrize(
    ("aucs", "baseline", "said"),
    [
        ([], True, "**Result**: no trial is complete yet."),
        ([None, None], True, "**Result**: no trial is complete yet."),
        ([1.0, 0.0], True, "trial 0 leads with a validation AUC of 1.000 (95 % interval 1.000 to 1.000). "
         "It is the baseline: no gain over it."),
        ([1.0, 1.0], True, "trial 0 leads"),  # the earlier one of equals
        ([0.0, 1.0], True, "Over the baseline (0.000): +1.000 (95 % interval 1.000 to 1.000), a gain."),
        ([0.0, None, 1.0], True, "trial 2 leads"),
        ([0.0, 0.0], True, "trial 0 leads with a validation AUC of 0.000"),
        ([None, 1.0], True, "1.000 (95 % interval 1.000 to 1.000).\n\n---"),  # the baseline did not get that far
        ([0.0, 1.0], False, "1.000 (95 % interval 1.000 to 1.000).\n\n---"),
    ],
)  # fmt: skip
def test_the_result_in_words(tiny_study: MakeStudy, aucs: list[float | None], baseline: bool, said: str) -> None:
    study = tiny_study() if baseline else tiny_study(baseline={})
    end_trials(study, aucs)

    assert said in note_of(study)


def test_a_gain_whose_interval_includes_zero_is_none_that_these_clips_can_tell(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    truth = study.stored.truth
    end_trials(study, [THIRD])
    better = scores_of(truth, THIRD)
    missed = int(np.flatnonzero(better == -1.0)[0])
    better[missed] = 0.5  # one anomaly of nine
    claim = study.storage.claim(study.stored.study_id, "worker", first={})
    assert claim is not None
    study.storage.finish(claim, "complete", value=mean_auc(better, truth), scores=better)

    note = note_of(study)
    assert "Over the baseline (0.333): +0.111 (95 % interval 0.000 to " in note
    assert "no gain that these clips can tell.\n" in note


def test_of_trials_whose_scores_were_not_kept_it_says_what_it_can(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    for value in (0.25, 0.5):
        claim = study.storage.claim(study.stored.study_id, "worker", first={})
        assert claim is not None
        study.storage.finish(claim, "complete", value=value)

    assert f"**Result**: trial 1 leads with a validation AUC of 0.500.{LINE}" in note_of(study)


@pytest.mark.parametrize(
    ("setting", "row"),
    [
        ({"h_dim": {"low": 8, "high": 2_000_000}}, "| `h_dim` | 8 to 2000000 |"),
        ({"kld_weight": {"low": 1e-5, "high": 0.1, "log": True}}, "| `kld_weight` | 1e-05 to 0.1, logarithmic |"),
        ({"context": {"choices": [1, 5]}}, "| `context` | 1, 5 |"),
        ({}, None),
    ],
)
def test_each_open_setting_has_its_range(tiny_study: MakeStudy, setting: dict[str, Any], row: str | None) -> None:
    model = {"family": "vae", "context": 3, "h_dim": 16, "z_dim": 4, **setting}
    note = note_of(tiny_study(model=model, baseline={}))

    assert row is None or row in note
    assert ("| open setting |" in note) == (row is not None)


@pytest.mark.parametrize("own", ["", "\n", "\nOur best so far.\n", " directly behind it", "\n\n---\nanother line\n"])
def test_what_people_write_below_the_line_stays(tiny_study: MakeStudy, own: str) -> None:
    study = tiny_study()
    before = note_of(study).removesuffix("\n") + own
    save_note(optuna_study(study), before)
    end_trials(study, [1.0])

    after = note_of(study)

    assert after.partition(LINE)[2] == own
    assert after.count("Offkey writes") == 1
    assert "trial 0 leads" in after


def test_a_note_that_people_began_is_kept_below_the_line(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    save_note(optuna_study(study), "Ask Ann before you delete this.")

    assert note_of(study).endswith(f"{LINE}\n\nAsk Ann before you delete this.")
    assert note_of(study).count("Ask Ann") == 1  # a second time: it is below the line by now


def test_what_people_change_above_the_line_is_written_anew(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    written = note_of(study)
    save_note(optuna_study(study), written.replace("# tiny", "# mine"))

    assert note_of(study) == written


def test_a_note_that_is_up_to_date_is_not_written_again(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    end_trials(study, [0.0, 1.0])
    note_of(study)
    written: list[str] = []
    event.listen(study.storage.engine, "before_cursor_execute", lambda *given: written.append(given[2]))

    note_of(study)

    assert written
    assert not [statement for statement in written if not statement.startswith("SELECT")]


def test_a_note_longer_than_one_of_optunas_attributes_is_whole_and_may_become_short_again(
    tiny_study: MakeStudy,
) -> None:
    study = tiny_study()
    short = note_of(study)
    lengthy = "\n" + "".join(f"Day {day}: nothing new, ünd größer.\n" for day in range(400))
    save_note(optuna_study(study), short.removesuffix("\n") + lengthy)
    end_trials(study, [1.0])

    assert note_of(study).endswith(f"{LINE}{lengthy}")
    assert len(note_of(study)) > 4 * 2045

    save_note(optuna_study(study), short)
    assert note_of(study).endswith(f"trial 0 leads with a validation AUC of 1.000 (95 % interval 1.000 to 1.000). "
                                   f"It is the baseline: no gain over it.{LINE}\n")  # fmt: skip


def test_a_worker_brings_it_up_to_date_when_a_trial_leads_and_at_the_studys_end(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=3)
    study.worker(quick=True).run()
    best = max(optuna_study(study).get_trials(), key=lambda trial: trial.value or 0.0)

    assert f"trial {best.number} leads" in get_note(optuna_study(study))
    assert get_note(optuna_study(study)) == note_of(study)
