"""The command line: what each command prints, its exit code, and what it says when something is wrong.

0 done, 1 failed, 2 misuse. Results go to standard output, everything else to standard error. A search and its
workers are run as real processes elsewhere.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
from optuna.distributions import CategoricalDistribution

from search.cli.app import app
from search.cli.study.demo import _fresh_name
from search.preparation.prepared import prepare
from search.study.study_file import load_study, shipped_studies
from tests.support.offkey_process import until
from tests.support.quick import QuickTraining
from tests.support.tiny_study import made, whole_copy

if TYPE_CHECKING:
    from tests.support.command import Ran
    from tests.support.tiny_study import TinyStudy

    Offkey = Callable[..., Ran]
    MakeStudy = Callable[..., TinyStudy]

COMMANDS = sorted(
    command.name or command.callback.__name__ for command in app.registered_commands if command.callback is not None
)

RECIPE = """\
study: by-hand
features: {n_mels: 32}
model: {family: vae, context: 3, h_dim: 16, z_dim: 4}
training: {learning_rate: 0.01, batch_size: 64, epochs: 1}
"""


def plain(text: str) -> str:
    """As one line, without the frames that help is drawn in."""
    return " ".join(re.sub(r"[│╭╮╰╯─]|\x1b\[[0-9;]*m", " ", text).split())


@pytest.fixture(scope="module")
def database_of_finished(corpus_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    study = made(f"sqlite:///{folder / 'made.db'}", corpus_root, trials=3)
    worker = study.worker()
    worker.show = None
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OFFKEY_CACHE", str(folder / "cache"))
        worker.run()
    return whole_copy(study, folder / "tiny.db")


@pytest.fixture
def finished(
    database_of_finished: Path, corpus_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TinyStudy:
    """A study of three complete trials in $OFFKEY_STORAGE, named tiny."""
    url = f"sqlite:///{shutil.copy(database_of_finished, tmp_path / 'tiny.db')}"
    monkeypatch.setenv("OFFKEY_STORAGE", url)
    return made(url, corpus_root, trials=3)


@pytest.fixture
def recipe(corpus_root: Path) -> Path:
    path = Path("recipe.yaml")
    path.write_text(RECIPE + f"corpus: {{root: {corpus_root}}}\n")
    return path


def test_the_map_names_every_command(offkey: Offkey) -> None:
    ran = offkey("--help")

    assert ran.code == 0
    assert {"corpus", "demo", "export", "init", "score", "search", "status", "studies", "train", "worker"} <= set(
        COMMANDS
    )
    for command in COMMANDS:
        assert re.search(rf"\b{command} +[A-Z]", plain(ran.stdout))


def test_it_says_which_version_it_is(offkey: Offkey) -> None:
    ran = offkey("--version")

    assert (ran.code, ran.stdout, ran.stderr) == (0, f"offkey {version('offkey')}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_has_an_example(offkey: Offkey, command: str) -> None:
    ran = offkey(command, "--help")

    assert ran.code == 0
    assert f"Example: offkey {command}" in plain(ran.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nonsense",),
        ("nonsense",),
        ("corpus",),
        ("corpus", "here", "--nonsense"),
        ("studies", "--josn"),
        ("export", "tiny", "--trial", "best"),
        ("search", "demo", "--trials", "many"),
        ("search", "demo", "--per-device", "0"),
        ("train", "recipe.yaml"),
        *((command, "--nonsense") for command in COMMANDS),
    ],
)
def test_a_command_line_that_makes_no_sense_is_misuse(offkey: Offkey, arguments: tuple[str, ...]) -> None:
    ran = offkey(*arguments)

    assert ran.code == 2
    assert ran.stdout == ""
    assert "Usage: offkey" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("corpus", "nowhere"), 1, "nowhere does not exist"),
        (("init", "nowhere"), 1, "nowhere does not exist"),
        (("train", "nowhere.yaml", "-o", "new"), 2, "nowhere.yaml: no such study file"),
        (("train", "vae_tunning", "-o", "new"), 2, "did you mean vae_tuning?"),
        (
            ("train", "vae_tuning", "-o", "new"),
            2,
            "vae_tuning leaves h_dim, z_dim, learning_rate, batch_size, epochs open",
        ),
        (("train", "rootless.yaml", "-o", "new"), 1, "corpus.root is missing: set it (on the"),
        (("train", "rootless.yaml", "-o", "new", "--set", "corpus.root=nowhere"), 1, "nowhere does not exist"),
        (("train", "rootless.yaml", "-o", "new", "--set", "training.epoch=3"), 2, "did you mean epochs?"),
        (("train", "rootless.yaml", "-o", "new", "--set", "epochs"), 2, "setting epochs: must be path=value"),
        (("train", "rootless.yaml", "-o", "new", "--device", "nonsense"), 2, "--device nonsense: no such device here"),
        (("train", "rootless.yaml", "-o", "new", "--device", "cuda:7"), 2, "--device cuda:7: no such device here"),
        (
            ("train", "rootless.yaml", "-o", "new", "--set", "corpus.root=unlabelled"),
            1,
            "AUC is undefined: unlabelled has no labelled test clips",
        ),
        (("init", "unlabelled", "-o", "gone/study.yaml"), 1, "gone/study.yaml cannot be written: No such file"),
        (("train", "rootless.yaml", "-o", "here"), 1, "here exists already, and is left as it is"),
        (("train", "typo.yaml", "-o", "new"), 2, "typo.yaml, line 2: modle is not a setting; did you mean model?"),
        (("search", "nowhere.yaml"), 2, "nowhere.yaml: no such study file"),
        (("search", "typo.yaml"), 2, "typo.yaml, line 2: modle is not a setting"),
        (("search", "demo"), 1, "corpus.root is missing"),
        (
            ("search", "demo", "--workers", "none"),
            2,
            "--workers must be a number of at least 1, or auto, but got 'none'",
        ),
        (("search", "demo", "--workers", "0"), 2, "--workers must be a number of at least 1, or auto, but got '0'"),
        (("search", "demo", "--workers", "x"), 2, "--workers must be a number of at least 1, or auto, but got 'x'"),
        (("search", "demo", "--workers", "-1"), 2, "--workers must be a number of at least 1, or auto, but got '-1'"),
        (("search", "demo", "--per-device", "2"), 2, "--per-device is 2 workers for each GPU, but no GPU is visible"),
        (("search", "demo", "--trials", "0"), 2, "search.trials should be greater than or equal to 1, but got 0"),
        (("search", "demo", "--hours", "-1"), 2, "search.hours should be greater than 0, but got -1"),
        (("search", "demo", "--study", "a b"), 2, "the name a b: study String should match pattern"),
        (("status", "tiny"), 1, "There is no study storage offkey.db; `offkey search` makes one"),
        (("export", "tiny"), 1, "There is no study storage offkey.db"),
        (("worker", "tiny"), 1, "There is no study storage offkey.db"),
        (("worker", "tiny", "--set", "search.trials=3"), 2, "only corpus.root may be --set"),
        (("status", "tiny", "--storage", "sqlite:///gone.db"), 1, "There is no study storage gone.db"),
        (("status", "tiny", "--storage", "nonsense"), 1, "nonsense: not a database URL"),
        (("status", "tiny", "--storage", "sqlite://"), 1, "a database in memory cannot be shared"),
        (("status", "tiny", "--storage", "sqlite:///rootless.yaml"), 1, "file is not a database"),
        (("status", "tiny", "--storage", "nodb://user:secret@host/x"), 1, "nodb"),
    ],
)
def test_what_the_user_can_mend_is_said_without_a_traceback(
    offkey: Offkey, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, message: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Path("rootless.yaml").write_text(RECIPE)
    Path("typo.yaml").write_text("study: a\nmodle: {family: vae}\n")
    Path("here").mkdir()
    for split, name in (("train", "normal_id_00_00000000"), ("test", "id_00_00000001")):
        Path("unlabelled/fan", split).mkdir(parents=True)
        soundfile.write(Path("unlabelled/fan", split, f"{name}.wav"), np.zeros(16000), 16000)

    ran = offkey(*arguments)

    assert ran.code == code
    assert ran.stdout == ""
    assert ran.stderr.startswith("error: ")
    assert message in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr
    assert not Path("new").exists()


def test_a_password_in_the_storage_s_url_is_never_shown(offkey: Offkey) -> None:
    ran = offkey("status", "tiny", "--storage", "mysql://user:secret@host/x")

    assert ran.code == 1
    assert "secret" not in ran.stderr


def test_init_writes_a_study_that_loads_and_fits_the_clips(offkey: Offkey, corpus_root: Path) -> None:
    ran = offkey("init", corpus_root, "-o", "my-study.yaml")

    study = load_study("my-study.yaml")
    recipe = study.first_recipe()
    assert ran.code == 0
    assert "Wrote my-study.yaml" in ran.stderr
    assert study.name == "my-study"
    assert (recipe.corpus.root, recipe.corpus.machines) == (str(corpus_root), ["compressor"])
    assert recipe.features.sample_rate == 16000
    assert study.space.settings
    assert "#" in Path("my-study.yaml").read_text()
    assert "ends after 10 minutes or 60 trials" in ran.stderr
    assert (study.search.hours, study.search.trials) == (0.17, 60)


def test_init_offers_additional_clips_where_there_are_some(offkey: Offkey, corpus_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "challenge"
    shutil.copytree(corpus_root, root / "dev_data")
    shutil.copytree(corpus_root / "compressor" / "train", root / "eval_data" / "compressor" / "train")

    offkey("init", root, "-o", "study.yaml")

    train_on = load_study("study.yaml").space.distributions()["train_on"]
    assert train_on == CategoricalDistribution(["development", "development+additional"])


@pytest.mark.parametrize("machine", ["2020", "true", "fan: big", "pump, two", "№ 7 #1", "it's"])
def test_init_takes_machines_and_folders_of_any_name(
    offkey: Offkey, corpus_root: Path, tmp_path: Path, machine: str
) -> None:
    root = tmp_path / "all: machines #1"
    shutil.copytree(corpus_root / "compressor", root / machine)

    ran = offkey("init", root, "-o", "_my study.yaml")

    study = load_study("_my study.yaml")
    assert ran.code == 0
    assert study.name == "my-study"
    assert study.first_recipe().corpus.machines == [machine]
    assert study.first_recipe().corpus.root == str(root)


def test_init_fits_clips_of_several_channels_and_sample_rates(
    offkey: Offkey, corpus_root: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(corpus_root, tmp_path / "odd"))
    machine = root / "compressor"
    noise = np.random.default_rng(0).normal(0, 0.1, (44100, 2))
    soundfile.write(machine / "train/normal_id_00_00000000.wav", noise, 44100)
    ran = offkey("init", root, "-o", "study.yaml")
    assert ran.code == 0, ran.stderr
    prepared = prepare(load_study("study.yaml"), default_root=None)
    features = prepared.study.first_recipe().features
    assert (features.sample_rate, features.resample, features.channel) == (16000, True, "mean")
    assert features.frames_of(prepared.corpus.clips[-1]) == 32


@pytest.mark.parametrize("left", ["train", "train and normal"])
def test_init_goes_by_made_faults_where_none_was_recorded(
    offkey: Offkey, corpus_root: Path, tmp_path: Path, left: str
) -> None:
    root = Path(shutil.copytree(corpus_root, tmp_path / "healthy"))
    for path in (root / "compressor/test").glob("*.wav" if left == "train" else "anomaly*.wav"):
        path.unlink()
    ran = offkey("init", root, "-o", "study.yaml")
    assert ran.code == 0, ran.stderr
    assert load_study("study.yaml").validation.objectives == ("proxy",)
    assert "a makeshift" in Path("study.yaml").read_text()


def test_init_overwrites_nothing(offkey: Offkey, corpus_root: Path) -> None:
    Path("study.yaml").write_text("mine")

    ran = offkey("init", corpus_root)

    assert ran.code == 2
    assert "study.yaml exists already, and is left as it is" in ran.stderr
    assert Path("study.yaml").read_text() == "mine"


def test_studies_lists_what_ships_a_line_each(offkey: Offkey) -> None:
    shown, as_json = offkey("studies"), offkey("studies", "--json")

    assert (shown.code, as_json.code) == (0, 0)
    assert json.loads(as_json.stdout) == {
        "studies": [{"study": name, "about": about} for name, about in shipped_studies().items()]
    }
    for name, about in shipped_studies().items():
        assert f"{name} {about}" in plain(shown.stdout)


def test_status_json_is_one_document_with_the_agreed_keys(offkey: Offkey, finished: TinyStudy) -> None:
    ran = offkey("status", "tiny", "--json")

    document = json.loads(ran.stdout)
    assert ran.code == 0
    assert document["study"] == "tiny"
    assert document["budget"] == 3
    assert document["trials"] == {"complete": 3, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}
    best = document["best"]
    assert best.keys() >= {"number", "value", "interval", "params"}
    assert best["interval"] is None, "three clips of each label and machine ID"
    assert best["params"].keys() == {"h_dim"}
    assert document["baseline"].keys() == {"value"}
    assert 0 <= document["baseline"]["value"] <= best["value"]


def test_status_shows_counts_and_the_best_trials(offkey: Offkey, finished: TinyStudy) -> None:
    best = json.loads(offkey("status", "tiny", "--json").stdout)["best"]

    ran = offkey("status", "tiny")

    assert ran.code == 0
    assert "tiny: budget of 3 trials; 3 complete" in ran.stdout
    assert f"Best: trial {best['number']}, validation AUC {best['value']:.3f}" in ran.stdout


def test_status_of_a_study_that_nobody_works_on_yet(offkey: Offkey, tiny_study: MakeStudy) -> None:
    tiny = tiny_study(trials=5)

    ran = offkey("status", "tiny", "--storage", tiny.url, "--json")

    document = json.loads(ran.stdout)
    assert ran.code == 0
    assert document["trials"] == {"complete": 0, "pruned": 0, "failed": 0, "running": 0, "waiting": 5}
    assert document["best"] is None
    assert document["baseline"] == {"value": None}


def test_status_shows_who_works_on_what_where_and_how_fast(
    offkey: Offkey, tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = tiny_study(trials=1)
    monkeypatch.setattr(QuickTraining, "pause", 0.05)
    monkeypatch.setattr(QuickTraining, "batches", 1000)
    worker = tiny.worker(lease=2.0, quick=True)
    at_work = threading.Thread(target=worker.run, daemon=True)
    at_work.start()

    def running() -> dict[str, Any]:
        (row,) = json.loads(offkey("status", "tiny", "--storage", tiny.url, "--json").stdout)["workers"] or [{}]
        return dict(row)

    until(lambda: 5 < (running().get("rate") or 0) < 21)  # batches of 50 ms, once it has begun
    row, shown = running(), offkey("status", "tiny", "--storage", tiny.url)
    worker.stop.set()
    at_work.join(timeout=10)

    assert row.keys() == {
        "trial", "owner", "epoch", "value", "lease_seconds", "attempts", "device", "precision", "rate", "memory",
    }  # fmt: skip
    assert (row["trial"], row["owner"], row["attempts"], row["device"]) == (0, worker.owner, 1, "cpu")
    assert 0 < row["rate"] < 40
    assert row["memory"] > 50e6
    assert 0 < row["lease_seconds"] <= 2.0
    assert re.search(r"trial +epoch +AUC +batches/s +device +precision +memory +lease +worker", shown.stdout)
    assert re.search(rf"0 +— +— +[\d.]+ +cpu +float32 +[\d.]+ [MG]B +\d s +{re.escape(worker.owner)}", shown.stdout)


def test_a_study_can_be_named_by_its_file(offkey: Offkey, finished: TinyStudy) -> None:
    Path("some.yaml").write_text("study: tiny\nmodel: {family: vae}\n")

    assert offkey("status", "some.yaml").stdout == offkey("status", "tiny").stdout


@pytest.mark.parametrize("command", ["status", "export", "worker"])
def test_a_name_that_the_storage_has_not_is_answered_with_those_it_has(
    offkey: Offkey, finished: TinyStudy, command: str
) -> None:
    ran = offkey(command, "tinny")

    assert ran.code == 1
    assert "There is no study 'tinny' in" in ran.stderr
    assert "it holds tiny." in ran.stderr


def test_export_prints_a_recipe_that_is_a_study_file(offkey: Offkey, finished: TinyStudy) -> None:
    ran = offkey("export", "tiny")
    Path("recipe.yaml").write_text(ran.stdout)
    best = json.loads(offkey("status", "tiny", "--json").stdout)["best"]

    study = load_study("recipe.yaml")
    recipe = study.first_recipe()

    assert (ran.code, ran.stderr) == (0, "")
    assert study.space.settings == ()
    assert recipe.study == f"tiny-trial-{best['number']}"
    assert recipe.model.model_dump()["h_dim"] == best["params"]["h_dim"]


def test_export_writes_the_trial_that_is_asked_for(offkey: Offkey, finished: TinyStudy) -> None:
    ran = offkey("export", "tiny", "--trial", 0, "-o", "recipe.yaml")

    recipe = load_study("recipe.yaml").first_recipe()
    assert (ran.code, ran.stdout) == (0, "")
    assert "Wrote recipe.yaml: trial 0 of tiny" in ran.stderr
    assert recipe.from_ is not None
    assert (recipe.from_.study, recipe.from_.trial) == ("tiny", 0)
    assert recipe.model.model_dump()["h_dim"] == 16  # the baseline's


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--trial", "9"), "The study 'tiny' has no trial 9; it has trials 0 to 2"),
        (("-o", "nowhere/recipe.yaml"), "nowhere/recipe.yaml cannot be written"),
    ],
)
def test_an_export_that_cannot_be_is_an_error(
    offkey: Offkey, finished: TinyStudy, options: tuple[str, ...], message: str
) -> None:
    ran = offkey("export", "tiny", *options)

    assert (ran.code, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"error: {message}")


@pytest.mark.parametrize("text", ["study: mine\n", "a note: [", "\0"])
def test_export_writes_over_an_export_and_over_nothing_else(offkey: Offkey, finished: TinyStudy, text: str) -> None:
    Path("mine.yaml").write_text(text)

    refused = offkey("export", "tiny", "-o", "mine.yaml")
    again = [offkey("export", "tiny", "-o", "recipe.yaml").code for _ in range(2)]

    assert refused.code == 1
    assert "mine.yaml exists and is no exported recipe: it is left as it is" in refused.stderr
    assert Path("mine.yaml").read_text() == text
    assert again == [0, 0]


def test_a_pruned_trial_is_exported_with_a_warning(offkey: Offkey, tiny_study: Callable[..., TinyStudy]) -> None:
    study = tiny_study(trials=1)
    hold = study.ledger.claim("worker", first={})
    assert hold is not None
    study.worker(quick=True).suggestions.settled_trial(hold).set_user_attr("threads", 1)
    hold.finish("pruned", values=[0.5], scores=np.zeros(len(study.stored.truth)))

    ran = offkey("export", "tiny", "--trial", 0, "--storage", study.url, "-o", "recipe.yaml")

    assert ran.code == 0
    assert "warning: trial 0 was pruned" in ran.stderr


def test_train_json_is_one_document_with_the_agreed_keys(offkey: Offkey, recipe: Path) -> None:
    ran = offkey("train", recipe, "-o", "detector", "--json")

    document = json.loads(ran.stdout)
    assert ran.code == 0
    assert document["bundle"] == "detector"
    assert document["validation"].keys() >= {"auc", "interval"}
    assert document["test"].keys() >= {"auc", "pauc", "interval", "per_id"}
    assert document["test"]["per_id"].keys() == {f"compressor/{machine_id}" for machine_id in ("00", "02", "04")}
    assert document["test"] == json.loads(Path("detector/metrics.json").read_text())["test"]


def test_train_shows_both_figures_and_where_the_bundle_lies(offkey: Offkey, recipe: Path) -> None:
    ran = offkey("train", recipe, "-o", "detector")
    metrics: dict[str, Any] = json.loads(Path("detector/metrics.json").read_text())

    assert ran.code == 0
    assert re.search(rf"validation +{metrics['validation']['auc']:.3f}", ran.stdout)
    assert re.search(rf"test, held out +{metrics['test']['auc']:.3f}", ran.stdout)
    assert "Wrote detector. Next: offkey score detector" in ran.stderr
    decisions = metrics["decisions"]
    assert f"Of {decisions['normal']} normal test clips {decisions['false_alarms']} " in ran.stdout
    assert "cannot promise a false-alarm rate of 0.1, which takes 9 withheld clips" in ran.stderr


def test_train_warns_once_of_what_a_family_without_training_ignores(offkey: Offkey, corpus_root: Path) -> None:
    Path("levels.yaml").write_text("study: levels\nmodel: {family: stat}\ntraining: {epochs: 5, seed: 1}\n")

    first = offkey("train", "levels.yaml", "-o", "one", "--set", f"corpus.root={corpus_root}")
    again = offkey("train", "one/recipe.yaml", "-o", "other")

    assert (first.code, again.code) == (0, 0)
    assert first.stderr.count("training.epochs has no effect: stat is not trained") == 1
    assert "is not trained" not in again.stderr


def test_the_clips_may_lie_where_offkey_data_says(
    offkey: Offkey, corpus_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("rootless.yaml").write_text(RECIPE)
    monkeypatch.setenv("OFFKEY_DATA", str(corpus_root))

    of_environment = offkey("train", "rootless.yaml", "-o", "one", "--json")
    monkeypatch.delenv("OFFKEY_DATA")
    of_set = offkey("train", "rootless.yaml", "-o", "other", "--json", "--set", f"corpus.root={corpus_root}")

    assert (of_environment.code, of_set.code) == (0, 0)
    assert json.loads(of_environment.stdout)["test"] == json.loads(of_set.stdout)["test"]


def test_train_overwrites_nothing(offkey: Offkey, recipe: Path) -> None:
    Path("detector").mkdir()
    Path("detector/mine.txt").write_text("mine")

    ran = offkey("train", recipe, "-o", "detector")

    assert ran.code == 1
    assert [path.name for path in Path("detector").iterdir()] == ["mine.txt"]


def test_an_exported_recipe_is_trained_to_the_trial_s_own_value(offkey: Offkey, finished: TinyStudy) -> None:
    offkey("export", "tiny", "-o", "recipe.yaml")

    ran = offkey("train", "recipe.yaml", "-o", "detector", "--json")

    best = json.loads(offkey("status", "tiny", "--json").stdout)["best"]
    assert json.loads(ran.stdout)["validation"]["auc"] == best["value"]
    assert json.loads(ran.stdout)["validation"]["interval"] == best["interval"]


def test_each_demo_has_a_study_with_a_fresh_name(tmp_path: Path) -> None:
    import optuna

    url = f"sqlite:///{tmp_path / 'offkey.db'}"
    names = []
    for _ in range(3):
        names.append(_fresh_name("demo", url))
        optuna.create_study(study_name=names[-1], storage=url)
    assert names == ["demo", "demo-2", "demo-3"]
