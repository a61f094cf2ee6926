"""Offkey in a notebook: the documented example, and what the command line says of the same study."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from features.errors import CorpusError
from search import api
from search.errors import MisuseError, NoStorageError, StudyError, StudyFileError
from search.storage.tables import StudyRow
from search.study.document import Document, as_override
from search.study.study_file import to_yaml
from search.workers.worker import join
from tests.support.detectors import change_details
from tests.support.house import HOUSE
from tests.support.offkey_process import stand_in

if TYPE_CHECKING:
    from search.detector.scored_clips import ScoredClip
    from tests.support.command import Ran
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]


# In place of a worker's process: one that waits, one that has nothing to do, and one whose work a thread does.
WAITS = "mkfifo hold; read line < hold"
IS_DONE = "exit 0"
WAITS_FOR_A_THREAD = "echo $OFFKEY_STORAGE $5 > started; read line < done"


@dataclass(frozen=True)
class Notebook:
    """The documented example after its last line."""

    folder: Path
    names: dict[str, Any]  # what it defined
    printed: str
    warned: list[str]


@pytest.fixture(scope="module")
def notebook(corpus_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Notebook:
    """docs/notebook.md, word for word; the worker is a thread here, whose process would import everything anew."""
    (example,) = re.findall(r"```python\n(.*?)```", (HOUSE / "docs" / "notebook.md").read_text(), re.DOTALL)
    folder = tmp_path_factory.mktemp("notebook")
    shutil.copytree(corpus_root, folder / "clips")
    for fifo in ("started", "done"):
        os.mkfifo(folder / fifo)
    names: dict[str, Any] = {}
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", api.OffkeyWarning)
        patched.chdir(folder)
        patched.setenv("OFFKEY_CACHE", str(folder / "cache"))
        patched.setenv("CUDA_VISIBLE_DEVICES", "")
        for name in ("OFFKEY_STORAGE", "OFFKEY_DATA", "OFFKEY_ARTIFACTS"):
            patched.delenv(name, raising=False)
        patched.setattr(
            "search.dashboard.exhibits.exhibits_of", lambda training, scores: ()
        )  # drawing takes longer than the training
        patched.setattr(sys, "executable", stand_in(folder / "worker.sh", WAITS_FOR_A_THREAD))
        threading.Thread(target=_work, args=(folder,), daemon=True).start()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            exec(compile(example, "docs/notebook.md", "exec"), names)
    messages = [str(warning.message) for warning in warned if warning.category is api.OffkeyWarning]
    return Notebook(folder, names, out.getvalue(), messages)


def _work(folder: Path) -> None:
    """A worker on the study of the process that says that it has started."""
    url, name = (folder / "started").read_text().split()
    try:
        join(url, name).run()
    finally:
        (folder / "done").write_text("\n")


@pytest.fixture
def in_the_notebook(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> Notebook:
    """The same, in its folder."""
    monkeypatch.chdir(notebook.folder)
    return notebook


def test_the_documented_example_ends_in_a_detector_with_the_best_trial_s_value(in_the_notebook: Notebook) -> None:
    study, detector, measured = (in_the_notebook.names[name] for name in ("study", "detector", "measured"))
    assert study.summary().budget == len(in_the_notebook.names["table"]) == 3
    assert detector.value == study.best.value, "final training repeats the trial to the last bit"
    assert detector.recipe.training.epochs == 5
    assert (detector.test_evaluations.count, detector.test_evaluations.recipes) == (1, 1)
    assert {name: (of_id.normal, of_id.anomaly) for name, of_id in measured.metrics.per_id.items()} == {
        f"compressor/{machine_id}": (6, 6) for machine_id in ("00", "02", "04")
    }


def test_nothing_is_printed_but_what_the_example_prints(notebook: Notebook) -> None:
    assert re.fullmatch(r"([0-3] of 3\r)+", notebook.printed)
    assert notebook.warned == []


def test_rows_and_metrics_are_those_of_the_command_line(in_the_notebook: Notebook, offkey: Callable[..., Ran]) -> None:
    rows, measured = in_the_notebook.names["rows"], in_the_notebook.names["measured"]
    tested = [row for row in rows if "test" in row.path]
    assert offkey("score", "detector", "clips", "--jsonl", "-o", "rows.jsonl").code == 0
    assert [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()] == [vars(row) for row in rows]

    Path("tested.jsonl").write_text("".join(json.dumps(vars(row)) + "\n" for row in tested))
    printed = offkey("evaluate", "tested.jsonl", "--truth", "clips", "--json")
    assert json.loads(printed.stdout) == json.loads(json.dumps(measured.as_json()))
    assert api.evaluate("tested.jsonl", truth="clips").as_json() == measured.as_json()


def test_a_loaded_bundle_scores_as_its_folder_does_and_a_clip_that_is_not_there_gets_a_row(notebook: Notebook) -> None:
    clip = notebook.folder / "clips" / "compressor" / "test" / "anomaly_id_02_00000003.wav"
    bundle = api.load_bundle(notebook.folder / "detector")
    scored, missing = api.score(bundle, [clip, "nowhere.wav"])
    assert scored == next(api.score(str(notebook.folder / "detector"), str(clip)))
    assert (missing.score, missing.error) == (None, "does not exist")


def test_two_systems_are_compared_on_the_same_clips(notebook: Notebook, recwarn: pytest.WarningsRecorder) -> None:
    """One finds every anomaly, the other calls what is normal an anomaly."""
    rows = [row for row in notebook.names["rows"] if "test" in row.path]
    right = [replace(row, score=float("anomaly" in row.path)) for row in rows]
    wrong = [replace(row, score=-float("anomaly" in row.path)) for row in rows[::-1]]

    measured = api.evaluate(right, truth=notebook.folder / "clips", against=wrong)

    assert measured.against is not None
    assert measured.against.overall.auc.difference == 1
    assert measured.against.per_id["compressor/00"].auc.other == 0
    assert not recwarn.list


def tampered(notebook: Notebook, change: Callable[[list[ScoredClip]], list[ScoredClip]]) -> list[ScoredClip]:
    return change([row for row in notebook.names["rows"] if "test" in row.path])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [], r"There are no rows. The rows of score\(\) can be read once"),
        (lambda rows: [*rows, rows[0]], r"anomaly_id_00_00000000.wav has a score already, in the row of clips/"),
        (lambda rows: [replace(rows[0], score=None, error="1 Hz"), *rows[1:]], r"clips/\S+ has no score \(1 Hz\)"),
        (lambda rows: rows[1:], r"1 labelled clips have no score \(compressor anomaly_id_00_00000000.wav\)"),
    ],
    ids=["none", "twice the same clip", "a clip without a score", "a clip left out"],
)
def test_rows_that_do_not_make_an_evaluation_are_refused(
    notebook: Notebook, change: Callable[[list[ScoredClip]], list[ScoredClip]], message: str
) -> None:
    with pytest.raises(StudyError, match=message):
        api.evaluate(tampered(notebook, change), truth=notebook.folder / "clips")


def test_importing_the_interface_imports_no_torch() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "import search.api, sys; print('torch' in sys.modules)"],
        cwd=HOUSE,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (shown.stdout, shown.stderr) == ("False\n", "")


def test_a_summary_says_what_status_prints(in_the_notebook: Notebook, offkey: Callable[..., Ran]) -> None:
    study = in_the_notebook.names["study"]
    summary, document = study.summary(), json.loads(offkey("status", "first", "--json").stdout)
    assert (summary.study, summary.budget, summary.counts) == ("first", 3, document["trials"])
    assert {
        "number": summary.best.number,
        "value": summary.best.value,
        "interval": summary.best.interval,  # None: three clips of each label
        "params": summary.best.params,
        "ties": list(summary.ties),
    } == document["best"]
    assert summary.gain.difference == summary.best.value - document["baseline"]["value"]
    assert (summary.best, summary.front) == (study.best, ())


def test_a_recipe_is_the_best_trial_s_or_that_of_the_one_that_is_asked_for(in_the_notebook: Notebook) -> None:
    study = in_the_notebook.names["study"]
    for recipe, trial in ((study.recipe(), study.best), (study.recipe(2), study.trials[2])):
        assert (recipe.from_.study, recipe.from_.trial) == ("first", trial.number)
        assert (recipe.model.h_dim, recipe.training.epochs) == (trial.params["h_dim"], 5)
        assert recipe.corpus.root == str(in_the_notebook.folder / "clips")


def test_a_recipe_file_is_trained_as_the_recipe_that_was_exported(
    in_the_notebook: Notebook, offkey: Callable[..., Ran]
) -> None:
    assert offkey("export", "first", "-o", "recipe.yaml").code == 0

    detector = api.train("recipe.yaml", "from_file")

    assert detector.recipe == in_the_notebook.names["detector"].recipe
    assert detector.value == in_the_notebook.names["detector"].value


def end(study: TinyStudy, state: Literal["complete", "pruned", "failed"], *values: float, reason: str = "") -> None:
    """Ends another trial of the study, without any work."""
    hold = study.ledger.claim(f"worker {values}", first={})
    assert hold is not None
    scores = np.random.default_rng(hold.number).normal(size=len(study.stored.truth))
    hold.finish(state, values=values or None, scores=scores if values else None, reason=reason)


def test_the_table_has_a_row_for_each_trial_with_its_state(tiny_study: MakeStudy) -> None:
    tiny = tiny_study(trials=9)
    end(tiny, "complete", 0.5)
    end(tiny, "pruned", 0.25)
    end(tiny, "failed", reason="too large")
    end(tiny, "complete", 0.75)
    given_back, _ = (tiny.ledger.claim(owner, first={}) for owner in ("one", "another"))
    assert given_back is not None
    given_back.release()

    study = api.Study.load("tiny", storage=tiny.url)
    trials = study.trials
    assert [(trial.number, trial.state, trial.value, trial.values, trial.reason) for trial in trials] == [
        (0, "complete", 0.5, {"auc": 0.5}, ""),
        (1, "pruned", 0.25, {"auc": 0.25}, ""),
        (2, "failed", None, {}, "too large"),
        (3, "complete", 0.75, {"auc": 0.75}, ""),
        (4, "waiting", None, {}, ""),
        (5, "running", None, {}, ""),
    ]
    assert [trial.number for trial in trials if trial.ties] == list(study.summary().ties)
    assert study.best == trials[3]
    assert study.summary().counts == {"complete": 2, "pruned": 1, "failed": 1, "running": 1, "waiting": 4}


def test_with_several_objectives_there_is_a_front_and_no_best_trial(
    tiny_study: MakeStudy, offkey: Callable[..., Ran]
) -> None:
    tiny = tiny_study(trials=3, validation={"metric": ["auc", "parameters"]})
    for values in ((0.75, 200.0), (0.5, 100.0), (0.25, 300.0)):
        end(tiny, "complete", *values)
    study = api.Study.load("tiny", storage=tiny.url)
    summary = study.summary()
    assert [(trial.number, trial.value, trial.values) for trial in summary.front] == [
        (0, 0.75, {"auc": 0.75, "parameters": 200.0}),
        (1, 0.5, {"auc": 0.5, "parameters": 100.0}),
    ]
    document = json.loads(offkey("status", "tiny", "--json", "--storage", tiny.url).stdout)
    assert [trial.interval for trial in summary.front] == [best["interval"] for best in document["best"]] == [None] * 2
    assert (summary.best, summary.ties, summary.gain) == (None, (), None)
    for choose in (lambda: study.best, study.recipe):
        with pytest.raises(MisuseError, match=r"several objectives \(auc, parameters\).*summary\(\).front"):
            choose()


def test_a_study_that_has_not_run_says_what_is_missing(tiny_study: MakeStudy, corpus_root: Path) -> None:
    study = api.Study.load("vae_tuning", root=corpus_root)
    assert repr(study) == "Study(name='vae_tuning', storage='sqlite:///offkey.db')"
    with pytest.raises(NoStorageError, match=r"There is no study storage offkey.db"):
        study.summary()
    assert not Path("offkey.db").exists(), "reading makes none"
    tiny = tiny_study()
    with pytest.raises(StudyError, match="There is no study 'vae_tuning' in sqlite:///.*tiny.db; it holds tiny"):
        _ = api.Study.load("vae_tuning", root=corpus_root, storage=tiny.url).trials
    stored = api.Study.load("tiny", storage=tiny.url)
    assert (stored.trials, stored.summary().best) == ([], None)
    with pytest.raises(StudyError, match=r"'tiny' has no complete trial yet: run\(\) continues it"):
        _ = stored.best


def test_a_password_is_not_shown(corpus_root: Path) -> None:
    study = api.Study.load("vae_tuning", root=corpus_root, storage="postgresql://offkey:secret@nowhere/offkey")
    assert repr(study) == "Study(name='vae_tuning', storage='postgresql+psycopg://offkey:***@nowhere/offkey')"


@pytest.mark.parametrize(
    ("misuse", "error", "message"),
    [
        (lambda s: api.Study.load("vae_tunning"), StudyFileError, "did you mean vae_tuning"),
        (lambda s: api.Study.load("vae", settings={"model.z_dim": "many"}), StudyFileError, r"z_dim"),
        (
            lambda s: api.Study.load("vae", settings={"model.z_dim": {4, 5}}),
            MisuseError,
            r"model.z_dim must be made of",
        ),
        (lambda s: api.Study.load("first", name="other"), MisuseError, "first is a stored study"),
        (lambda s: s.run(workers=0), MisuseError, "workers must be a number of at least 1, or 'auto', but got 0"),
        (lambda s: s.run(workers="two"), MisuseError, "but got 'two'"),
        (lambda s: s.run(trials=0), StudyFileError, "trials"),
        (lambda s: s.recipe(7), StudyError, "has no trial 7"),
        (lambda s: api.train(s.recipe(), "another", device="tape"), MisuseError, "no such device"),
        (lambda s: api.train(s.recipe(), "detector"), api.OffkeyError, "detector exists already"),
        (lambda s: api.score("detector", "detector"), StudyError, "No wav file in detector"),
        (lambda s: api.score("nowhere", "clips"), api.OffkeyError, "nowhere is not a bundle"),
        (lambda s: api.Study.load("vae", root="clps"), CorpusError, "root: .*/clps does not exist"),
        (lambda s: api.Study.load("frist"), StudyFileError, "sqlite:///offkey.db holds first; did you mean first?"),
        (
            lambda s: api.Study.load("first", storage="sqlite:///other.db"),
            StudyFileError,
            "first: no such study file.*there is no study storage sqlite:///other.db",
        ),
        (lambda s: api.train("r.yaml", "new"), StudyFileError, "There is no recipe file r.yaml"),
        (lambda s: api.train(HOUSE / "studies" / "vae_tuning.yaml", "new"), MisuseError, "leaves .*h_dim.* open"),
        (
            lambda s: api.evaluate([], "clips", year=cast("Any", 2019)),
            MisuseError,
            "year of an official score must be one of 2020 to 2026, but got 2019",
        ),
    ],
)
def test_misuse_is_named(
    in_the_notebook: Notebook, misuse: Callable[[api.Study], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        misuse(in_the_notebook.names["study"])


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda api, s: api.Study.load(5), "source must be a study file or a study's name, but got 5"),
        (lambda api, s: api.Study.load("vae", settings=["a=1"]), "settings must be a dict.*but got .'a=1'"),
        (lambda api, s: api.Study.load("vae", root=5), "root must be a corpus.*but got 5"),
        (lambda api, s: api.train(s, "new"), r"recipe must be a recipe of study.recipe\(\).*got Study\(name='f"),
        (lambda api, s: api.train(s.recipe(), 5), "bundle must be a folder or s3://"),
        (lambda api, s: api.score("detector", 5), "paths must be wav files, or folders of them, but got 5"),
        (lambda api, s: api.score("detector", [5]), "paths must be wav files, or folders of them, but got 5"),
        (lambda api, s: api.score(s.recipe(), "clips"), r"bundle must be .* or a detector of load_bundle\(\)"),
        (lambda api, s: api.evaluate(5, "clips"), r"rows must be rows of score\(\).*but got 5"),
        (lambda api, s: api.evaluate([{"score": 1}], "clips"), r"rows must be rows of score\(\).*but got {"),
        (lambda api, s: api.evaluate([], "clips", against=5), r"against must be rows of score\(\).*but got 5"),
        (lambda api, s: api.evaluate([], None), "truth must be a corpus.*but got None"),
    ],
)
def test_a_value_of_a_wrong_kind_is_named_with_what_is_wanted(
    in_the_notebook: Notebook, misuse: Callable[[Any, api.Study], object], message: str
) -> None:
    with pytest.raises(MisuseError, match=message):
        misuse(api, in_the_notebook.names["study"])


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(categories=("L", "N", "P", "S", "Zs")))


@given(st.recursive(PLAIN | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=8))
@settings(max_examples=30, deadline=None, database=None)
def test_a_setting_arrives_as_it_was_given(value: Any) -> None:
    document = Document(tree={}, origin="here")
    document.override(as_override("model.setting", value))
    assert document.tree == {"model": {"setting": value}}
    assert type(document.tree["model"]["setting"]) is type(value)


def workers_of_this_process() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "--owner" in child.cmdline()]


def test_an_interrupt_gives_the_trials_back_leaves_no_worker_and_is_raised(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = tiny_study()
    study = api.Study.load("tiny", storage=tiny.url)
    monkeypatch.setattr(sys, "executable", stand_in(Path("worker.sh").absolute(), WAITS))
    at_work: list[str] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it

    def stop_button(progress: api.SearchProgress) -> None:
        (worker,) = workers_of_this_process()
        command = worker.cmdline()
        owner = command[command.index("--owner") + 1]
        assert tiny.ledger.claim(owner, first={}) is not None
        at_work.append(study.trials[0].state)
        signal.raise_signal(signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            study.run(workers=1, progress=stop_button)
    finally:
        signal.signal(signal.SIGINT, before)
    assert at_work == ["running"]
    assert [trial.state for trial in study.trials] == ["waiting"]
    assert workers_of_this_process() == []


def use_up_hours(study: TinyStudy) -> None:
    with study.storage.engine.begin() as connection:
        connection.execute(update(StudyRow).values(active_seconds=7200.0))


@pytest.mark.parametrize(
    ("change", "run", "message"),
    [
        (lambda tiny: tiny.ledger.request_stop(), {}, "was stopped by `offkey stop`"),
        (use_up_hours, {"hours": 2}, "are used up"),
        (lambda tiny: None, {"trials": 2}, "has a budget of 3 trials already; joining never lowers it"),
    ],
    ids=["stopped", "out of time", "a smaller budget"],
)
def test_what_the_command_line_says_of_a_search_is_a_warning_here(
    tiny_study: MakeStudy,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[..., object],
    run: dict[str, Any],
    message: str,
) -> None:
    tiny = tiny_study(trials=3)
    monkeypatch.setattr(sys, "executable", stand_in(Path("worker.sh").absolute(), IS_DONE))
    study = api.Study.load("tiny", storage=tiny.url)
    with pytest.warns(api.OffkeyWarning, match=message) as warned:
        study.run(
            workers=1,
            progress=lambda status: change(tiny),
            **run,
        )
    assert {warning.filename for warning in warned} == {__file__}, "the notebook's line is named, not Offkey's"


@pytest.fixture
def with_warnings(in_the_notebook: Notebook) -> None:
    """A detector that another version wrote, and a recipe with a setting that has no effect."""
    shutil.copytree("detector", "older", dirs_exist_ok=True)
    change_details(Path("older"), lambda details: details["versions"].update(numpy="1.0"))
    recipe = in_the_notebook.names["recipe"].tree()
    recipe["scoring"] |= {"pooling": "mean", "decay": 0.5}
    Path("idle.yaml").write_text(to_yaml({key: block for key, block in recipe.items() if key != "from"}))


def train_where_a_detector_is() -> None:
    with contextlib.suppress(api.BundleError):
        api.train("idle.yaml", "older")


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: api.load_bundle("older"), "older was written with numpy 1.0"),
        (lambda: api.score("older", "clips"), "older was written with numpy 1.0"),
        (train_where_a_detector_is, "scoring.decay has no effect"),
    ],
    ids=["load_bundle", "score", "train"],
)
@pytest.mark.usefixtures("with_warnings")
def test_a_warning_names_the_notebook_s_line(act: Callable[[], object], message: str) -> None:
    with pytest.warns(api.OffkeyWarning, match=message) as warned:
        act()
    assert {warning.filename for warning in warned} == {__file__}
