"""The wheel, installed as a stranger would install it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search.workers.devices import cores

ROOT = Path(__file__).parent.parent
UV = Path(sys.executable).parent / "uv"


def run(*command: object, cwd: Path, **variables: str) -> str:
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("VIRTUAL_ENV", "PYTHON"))}
    ended = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=surroundings | variables, capture_output=True, text=True
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def share_what_is_compiled(clean: Path) -> None:
    """Python's and numba's code of the same packages, which a first import spends a minute on."""
    here, there = (Path(next(root.glob("lib/python*/site-packages"))) for root in (Path(sys.prefix), clean))
    for compiled in here.rglob("__pycache__"):
        beside = there / compiled.parent.relative_to(here)
        if beside.is_dir():
            shutil.copytree(compiled, beside / "__pycache__", copy_function=os.link, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.iterdir()
    return built


def test_type_checkers_read_the_annotations_of_all_four_packages_and_editors_find_the_schema(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())

    packages = {name.partition("/")[0] for name in inside if name.endswith(".py")}
    assert packages == {"features", "models", "search", "studies"}
    assert {f"{package}/py.typed" for package in packages} <= inside  # else they take them for untyped
    assert "studies/study.schema.json" in inside


@pytest.mark.timeout(460)
def test_a_wheel_in_a_clean_environment_completes_the_demo_in_a_folder_with_a_stray_models_py(
    wheel: Path, tmp_path: Path
) -> None:
    clean = tmp_path / "clean"
    run(UV, "venv", "--python", sys.executable, clean, cwd=tmp_path)
    run(UV, "pip", "install", "--python", clean, wheel, "--constraint", ROOT / "requirements.lock", cwd=tmp_path)
    share_what_is_compiled(clean)
    folder = tmp_path / "empty"
    folder.mkdir()
    for stray in ("models.py", "search.py"):
        (folder / stray).write_text("raise SystemExit('not what was asked for')\n")

    stdout = run(clean / "bin" / "offkey", "demo", "--trials", "3", cwd=folder, OFFKEY_CACHE=str(tmp_path / "cache"))

    made = folder / "offkey-demo"
    metrics = json.loads((made / "demo-bundle" / "metrics.json").read_text())
    for part in ("validation", "test"):
        low, high = metrics[part]["interval"]
        assert 0.5 < low <= metrics[part]["auc"] <= high
        assert f"{metrics[part]['auc']:.3f}" in stdout
    with (made / "demo-scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 144
    assert {row["error"] for row in rows} == {""}
    assert f"{metrics['validation']['auc']:.3f}" in (made / "demo-report.html").read_text(encoding="utf-8")
    url = f"sqlite:///{made / 'offkey.db'}"
    status = json.loads(run(clean / "bin" / "offkey", "status", "demo", "--storage", url, "--json", cwd=folder))
    assert sum(status["trials"][state] for state in ("complete", "pruned", "failed")) == status["budget"]
    assert status["trials"]["running"] == status["trials"]["waiting"] == 0
    assert status["best"]["value"] == metrics["validation"]["auc"], "final training repeats the trial to the last bit"
    complete = optuna.load_study(study_name="demo", storage=url).get_trials(states=(TrialState.COMPLETE,))
    assert status["best"]["value"] > status["baseline"]["value"]
    assert status["best"]["value"] - min(trial.value for trial in complete if trial.value is not None) > 0.1, (
        "a poor setting is clearly worse"
    )
    # Two workers, by default, divide the cores.
    assert {trial.user_attrs["threads"] for trial in complete} == {max(1, cores() // 2)}
