"""The study's note in the dashboard: its text, and that people's own words stay."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
from markdown_it import MarkdownIt
from optuna.storages._rdb import models
from optuna_dashboard import get_note, save_note
from sqlalchemy import event, func, select, text

from models.families import FAMILIES
from models.scoring.scores import Scores
from search.dashboard.note import write_note
from search.errors import StudyError
from search.evaluation.metrics import mean_auc
from search.evaluation.truth import Truth
from search.storage.stored_study import load_stored
from search.storage.study_storage import StudyStorage
from search.study.objectives import LOWEST_CAUTION

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

on_both_databases = pytest.mark.parametrize("storage_url", ["sqlite", "postgresql"], indirect=True)

THIRD, TWO_THIRDS = 1 / 3, 2 / 3

LINE = "\n\n---\n*Offkey writes what is above this line; below it is yours.*"

ABOVE = """\
# tiny

A search for the model (vae) that best tells a faulty machine's sound from a healthy one's: 3 trials, sampler tpe, pruner none.

"""  # noqa: E501

BELOW = """\


**Data**: compressor, 3 machine IDs, 54 clips.

**Validation clips**: 9 normal and 9 anomalous clips: 50% of each ID's labelled test clips. The other labelled clips \
are test clips: no trial uses them, only the final detector is measured on them.

**Objective**: AUC.

| open setting | range |
| --- | --- |
| `h_dim` | 8 to 64 |"""


#: Three validation clips of each label and machine ID.
TOO_FEW = "no interval: it takes 5 normal clips and 5 anomalies of each machine ID, but compressor/00 has 3 and 3"


def optuna_study(study: TinyStudy) -> optuna.Study:
    return optuna.load_study(study_name=study.stored.name, storage=study.storage)


def note_of(study: TinyStudy) -> str:
    write_note(study.storage, study.stored, optuna_study(study))
    return str(get_note(optuna_study(study)))


def scores_of(truth: Truth, auc: float) -> Scores:
    """Scores that give each ID this AUC: each of its anomalies lies above or below all normal clips."""
    scores = np.zeros(len(truth.ids))
    for name in set(truth.ids):
        anomalies = [n for n, key in enumerate(zip(truth.ids, truth.labels, strict=True)) if key == (name, 1)]
        scores[anomalies] = -1.0
        scores[anomalies[: round(auc * len(anomalies))]] = 1.0
    return scores


def end_trials(study: TinyStudy, aucs: Sequence[float | None]) -> None:
    """Ends a trial with each of these AUCs, as workers do; None is a pruned one."""
    for auc in aucs:
        hold = study.ledger.claim("worker", first={})
        assert hold is not None
        scores = scores_of(study.stored.truth, auc or 0.0)
        state: Any = "pruned" if auc is None else "complete"
        hold.finish(state, values=[mean_auc(scores, study.stored.truth)], scores=scores)


def test_it_has_the_objective_the_data_the_split_and_the_result(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    end_trials(study, [0.0, TWO_THIRDS, THIRD])

    assert note_of(study) == (
        f"{ABOVE}**Result**: trial 1 leads with a validation AUC of 0.667 ({TOO_FEW}). "
        "These clips do not show that it is any better than guessing. "
        "Over the baseline (0.000): +0.667, a gain. With 9 normal and 9 anomalous validation clips and 3 trials, four "
        f"of five studies show a true gain of 0.692.{BELOW}{LINE}\n"
    )


@pytest.mark.parametrize(
    ("aucs", "baseline", "sentence"),
    [
        ([], True, "**Result**: no trial is complete yet."),
        ([None, None], True, "**Result**: no trial is complete yet."),
        ([1.0, 0.0], True, f"trial 0 leads with a validation AUC of 1.000 ({TOO_FEW}). "
         "It is the baseline: no gain over it."),
        ([1.0, 1.0], True, "trial 0 leads"),  # the earlier one of equals
        ([0.0, 1.0], True, "Over the baseline (0.000): +1.000, a gain. With 9 normal"),
        ([0.0, None, 1.0], True, "trial 2 leads"),
        ([0.0, 0.0], True, "trial 0 leads with a validation AUC of 0.000"),
        ([None, 1.0], True, f"1.000 ({TOO_FEW}).\n\n**Data**"),  # the baseline did not get that far
        ([0.0, 1.0], False, f"1.000 ({TOO_FEW}).\n\n**Data**"),
    ],
)  # fmt: skip
def test_the_result_in_words(tiny_study: MakeStudy, aucs: list[float | None], baseline: bool, sentence: str) -> None:
    study = tiny_study() if baseline else tiny_study(baseline={})
    end_trials(study, aucs)

    assert sentence in note_of(study)


@pytest.mark.parametrize(
    ("metric", "objective"),
    [("auc", "AUC."), (["worst_id", "auc"], f"lowest AUC of a machine ID ({LOWEST_CAUTION}), AUC.")],
)
def test_the_objective_stands_there_with_its_caution(tiny_study: MakeStudy, metric: Any, objective: str) -> None:
    assert f"**Objective**: {objective}\n" in note_of(tiny_study(validation={"metric": metric}))


def test_a_gain_that_chance_explains_is_none_that_these_clips_can_tell_and_it_says_what_would(
    tiny_study: MakeStudy,
) -> None:
    study = tiny_study()
    truth = study.stored.truth
    end_trials(study, [THIRD])
    better = scores_of(truth, THIRD)
    missed = int(np.flatnonzero(better == -1.0)[0])
    better[missed] = 0.5  # one anomaly of nine
    hold = study.ledger.claim("worker", first={})
    assert hold is not None
    hold.finish("complete", values=[mean_auc(better, truth)], scores=better)

    note = note_of(study)
    assert "Over the baseline (0.333): +0.111, no gain that these clips can tell. With 9 normal and 9 anom" in note
    assert re.search(r"For one of 0\.111 it takes about \d{2,3} and \d{2,3} clips\.\n", note)


@pytest.mark.parametrize(
    ("setting", "row"),
    [
        ({"h_dim": {"low": 8, "high": 2_000_000}}, "| `h_dim` | 8 to 2000000 |"),
        ({"kld_weight": {"low": 1e-5, "high": 0.1, "log": True}}, "| `kld_weight` | 1e-05 to 0.1, logarithmic |"),
        ({"h_dim": {"low": 8, "high": 64, "step": 8}}, "| `h_dim` | 8 to 64, in steps of 8 |"),
        ({"kld_weight": {"low": 0.125, "high": 1.0, "step": 0.125}},
         "| `kld_weight` | 0.125 to 1, in steps of 0.125 |"),
        ({"context": {"choices": [1, 5]}}, "| `context` | 1, 5 |"),
        ({}, None),
    ],
)  # fmt: skip
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

    assert [statement for statement in written if "study_system_attributes" in statement]
    assert not [s for s in written if "study_system_attributes" in s and not s.startswith("SELECT")]


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
    assert note_of(study).endswith(f"trial 0 leads with a validation AUC of 1.000 ({TOO_FEW}). "
                                   f"It is the baseline: no gain over it.{BELOW}{LINE}\n")  # fmt: skip


def meanwhile(study: TinyStudy, statement: str, moment: str, action: Callable[[], None]) -> threading.Thread:
    """Lets somebody else act before or after the study's first statement of this kind: at once, or as soon as the
    transaction that it is part of lets them."""
    other = threading.Thread(target=action, daemon=True)

    def start(*given: Any) -> None:
        if given[2].startswith(statement) and other.ident is None:
            other.start()
            other.join(timeout=1)

    event.listen(study.storage.engine, f"{moment}_cursor_execute", start)
    return other


READING, LOCKING = "SELECT study_system_attributes", "UPDATE offkey_studies"


@on_both_databases
def test_what_somebody_saves_while_it_is_written_is_not_lost(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    end_trials(study, [0.0])
    before = note_of(study)
    end_trials(study, [1.0])
    ours, visitors = optuna_study(study), optuna.load_study(study_name="tiny", storage=StudyStorage(study.url))
    visitor = meanwhile(study, READING, "after", lambda: save_note(visitors, f"{before}Mine.\n"))

    write_note(study.storage, study.stored, ours)
    visitor.join(timeout=30)

    assert "Mine." in get_note(visitors)
    assert note_of(study).endswith(f"{LINE}\nMine.\n")
    assert "trial 1 leads" in note_of(study)


@on_both_databases
@pytest.mark.parametrize(("statement", "moment"), [(READING, "after"), (LOCKING, "before")])
def test_of_two_trials_that_lead_at_once_the_better_one_stands_there_in_the_end(
    tiny_study: MakeStudy, statement: str, moment: str
) -> None:
    study = tiny_study()
    end_trials(study, [0.0, THIRD])
    ours, faster = optuna_study(study), StudyStorage(study.url)

    def overtake() -> None:
        end_trials(replace(study, storage=faster), [1.0])
        write_note(faster, study.stored, optuna.load_study(study_name="tiny", storage=faster))

    other = meanwhile(study, statement, moment, overtake)
    write_note(study.storage, study.stored, ours)
    other.join(timeout=30)

    assert not other.is_alive()
    assert "trial 2 leads" in get_note(ours)
    assert get_note(ours) == note_of(study)


@on_both_databases
def test_of_a_study_that_is_deleted_meanwhile_no_note_is_left(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    end_trials(study, [1.0])
    elsewhere = StudyStorage(study.url)
    ours = optuna_study(study)
    meanwhile(study, LOCKING, "before", lambda: elsewhere.delete_study(study.stored.study_id))

    with pytest.raises(StudyError, match="The study 'tiny' was deleted while it was at work"):
        write_note(study.storage, study.stored, ours)

    left = select(func.count()).select_from(models.StudySystemAttributeModel)
    with study.storage.engine.connect() as connection:
        assert connection.execute(left).scalar_one() == 0


@pytest.mark.parametrize("name", ["fan|pump", "<img src=x>", "*a* _b_ [c](d) `e`", "a\\|b", "a&lt;b", "$x$", "a\nb"])
def test_names_are_shown_as_they_stand(tiny_study: MakeStudy, corpus_root: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(corpus_root / "compressor", tmp_path / "sounds" / name)
    study = tiny_study(corpus={"root": str(tmp_path / "sounds")})
    with study.storage.engine.begin() as connection:
        connection.execute(text("UPDATE studies SET study_name = :name"), {"name": name})

    study = replace(study, stored=load_stored(study.storage, name))
    html = MarkdownIt("commonmark").enable("table").render(note_of(study))

    shown = escape(" ".join(name.split()))
    assert f"<h1>{shown}</h1>" in html
    assert f"<strong>Data</strong>: {shown}, 3 machine IDs" in html


def test_choices_are_shown_as_they_stand(
    tiny_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wordy.py").write_text(
        "from typing import Literal\n"
        "from models.settings import WindowSettings\n"
        "class Settings(WindowSettings):\n"
        "    family: Literal['wordy'] = 'wordy'\n"
        "    mode: str = ''\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(FAMILIES, "wordy", "wordy")
    choices = ["fan|pump", "*a*", "1 < 2"]
    note = note_of(tiny_study(model={"family": "wordy", "context": 1, "mode": {"choices": choices}}, baseline={}))

    html = MarkdownIt("commonmark").enable("table").render(note)

    assert f"<td>{escape(', '.join(choices))}</td>" in html


def test_a_worker_brings_it_up_to_date_when_a_trial_leads_and_at_the_studys_end(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=3)
    study.worker(quick=True).run()
    best = max(optuna_study(study).get_trials(), key=lambda trial: trial.value or 0.0)

    assert f"trial {best.number} leads" in get_note(optuna_study(study))
    assert get_note(optuna_study(study)) == note_of(study)
