"""The table of docs/results.md: each study that ships, run on a corpus, beside the published figure.

    python -m benchmarks.results ROOT -o DIR                 # the studies as they are, machine by machine
    python -m benchmarks.results ROOT -o DIR --trials 8 --set training.epochs=10     # smaller
    python -m benchmarks.results --demo -o DIR               # on sounds made here
    python -m benchmarks.results ROOT -o DIR --families      # each family of `best` by itself, with all its variants

Each study is run for each machine by itself. Of a grid every setting is trained; any other study is searched
(`offkey search`), and its baseline and its best trial by validation are trained once more. All are measured on the
held-out test clips. Figures are means over machine IDs, with the 95 % intervals that Offkey prints everywhere; the
difference from the baseline is a paired one, on the same clips. It is called better or worse if its interval, widened
for as many comparisons as its study has (Bonferroni), excludes 0; "if alone" if only the printed one does. The pooled
AUC (over all clips of a machine, whatever their ID) depends on calibration, the others do not. What is there in DIR is
not done again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import joblib
import numpy as np
import optuna
from optuna.trial import FixedTrial, TrialState
from rich.console import Console
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from benchmarks.sides import machine_line
from features.clips.corpus import read_corpus
from features.clips.synthetic_corpus import MACHINE, make_corpus
from features.errors import UnservedError
from models.scoring.scores import Scores
from search.errors import StudyError
from search.evaluation.confidence import interval_of, interval_of_difference
from search.evaluation.metrics import Metric, mean_auc, metric_of
from search.evaluation.truth import Truth
from search.preparation.prepared import prepare, prepare_recipe
from search.results.export import recipe_of
from search.storage.stored_study import load_stored
from search.storage.study_storage import StudyStorage
from search.study.recipe import Recipe
from search.study.study import Study
from search.study.study_file import load_study, to_yaml
from search.study.trial_recipe import trial_recipe

#: What is measured of a study: a name for the setting, whether it is the baseline, and its recipe.
Chosen = list[tuple[str, bool, Recipe]]

#: On slider of DCASE 2020 Task 2, on the full data: AUC, or what was said (DESIGN of the entry's experiments).
PUBLISHED = {
    "vae": "0.757, 0.812, 0.833, 0.839",
    "vae_tuning": "no gain over the baseline",
    "cae": "0.52, 0.665, 0.677 (crops of 64, 128, 256)",
    "vae_per_id": "no gain over one model",
    "classifier": "0.805–0.819 (ResNet-50), 0.696 (MobileNetV2)",
    "features": "log-mel and chroma best",
    "chroma_logmel": "future work",
    "cleaned": "future work",
    "group_made": "future work",
    "best": "none has it",
}


@dataclass(frozen=True)
class Measured:
    """One setting on one machine's held-out test clips."""

    setting: str
    is_baseline: bool
    ids: list[str]  # machine/ID of each clip
    labels: list[int]
    scores: list[float]
    validation: float  # AUC
    parameters: int
    seconds: float  # of CPU, of the final training


def of_a_grid(study: Study) -> Chosen:
    """Each setting, whether it is the baseline, and its recipe: all with one seed."""
    settings = []
    for parameters in study.grid():
        recipe = trial_recipe(study, FixedTrial(parameters, number=0), threads=1)
        described = ", ".join(f"{name} {value}" for name, value in parameters.items())
        settings.append((described, study.baseline.items() <= parameters.items(), recipe))
    return settings


def families_of_best(folder: Path) -> list[str]:
    """`best` for each of its families by itself, without its portfolio: the files of these studies, in the folder."""
    best, files = load_study("best").tree, []
    search = {key: value for key, value in best["search"].items() if key != "first"}
    for branch in best["model"]:
        own = {key: value for key, value in branch.items() if key not in ("name", "features")}
        # A name of its own: the published figures, and what lies in the folder, are of the study of the family's name.
        tree = best | {"study": f"best_{branch.get('name', branch['family'])}", "model": own, "search": search}
        del tree["baseline"]
        if branch["family"] == "stat":  # nothing to train, and no windows to pool
            del tree["training"], tree["scoring"]
        if "features" in branch:
            tree["features"] = branch["features"]
        files.append(folder / f"{tree['study']}.yaml")
        files[-1].write_text(to_yaml(tree))
    return [str(file.resolve()) for file in files]


def of_a_search(study: str, machine: str, folder: Path, asked: argparse.Namespace, options: list[str]) -> Chosen:
    """The baseline and the best trial of a study that is searched on one machine."""
    url = f"sqlite:///{folder.resolve()}/results.db"
    name = f"{Path(study).stem}-{machine}"
    command = [sys.executable, "-P", "-m", "search.cli", "search", study, "--study", name, "--storage", url]
    command += ["--workers", str(asked.workers), *(part for text in options for part in ("--set", text))]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    storage = StudyStorage(url)
    stored = load_stored(storage, name)
    trials = optuna.load_study(study_name=name, storage=storage).get_trials(states=(TrialState.COMPLETE,))
    baseline = [trial for trial in trials if trial.number == 0 and stored.study().baseline]
    best = max(trials, key=lambda trial: (trial.value or 0.0, -trial.number))
    return [
        *(("baseline", True, recipe_of(stored, trial)) for trial in baseline),
        ("best by validation", False, recipe_of(stored, best)),
    ]


def measure(setting: str, is_baseline: bool, recipe: Recipe, file: Path) -> Measured | None:
    """Trains a recipe and scores the held-out test clips; kept in a file. None where the clips cannot serve it."""
    import torch

    from search.detector.bundle import Bundle
    from search.detector.final_training import train_detector
    from search.detector.scored_clips import score_clips
    from search.validation.split import held_out_clips

    if not file.exists():
        try:
            prepared = prepare_recipe(recipe, default_root=None, tell=lambda line: print(f"{setting}: {line}"))
            start = time.process_time()
            detector = train_detector(prepared, torch.device("cpu"))
        except UnservedError as error:
            print(f"{setting}: {error}")
            return None
        seconds = time.process_time() - start
        clips = held_out_clips(prepared.corpus, prepared.validation)
        bundle = Bundle(detector.recipe, detector.scorer, detector.labels, dict(detector.thresholds))
        scored = [row.score for row in score_clips(bundle, [clip.path for clip in clips], torch.device("cpu"))]
        truth = Truth.of(clips)
        measured = Measured(
            setting=setting,
            is_baseline=is_baseline,
            ids=list(truth.ids),
            labels=list(truth.labels),
            scores=[float("nan") if score is None else score for score in scored],
            validation=detector.validation.auc,
            parameters=sum(array.numel() for array in detector.scorer.parameters()),
            seconds=seconds,
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(measured)))
    return Measured(**json.loads(file.read_text()))


def digest(recipe: Recipe) -> str:
    """The same for recipes that give the same figures, wherever the clips lie."""
    tree = recipe.tree() | {"study": "", "from": None, "corpus": recipe.corpus.model_dump(exclude={"root"})}
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def row(
    study: str, setting: str, by_machine: dict[str, Measured], baseline: dict[str, Measured], *, comparisons: int
) -> list[str]:
    """A line of the table: one setting over all machines that have it."""
    scores, truth = _joined(list(by_machine.values()))
    cells = [study, setting, _with_interval("auc", scores, truth), _with_interval("pauc", scores, truth)]
    cells.append(f"{np.mean([roc_auc_score(one.labels, one.scores) for one in by_machine.values()]):.3f}")
    if by_machine.keys() == baseline.keys() and by_machine != baseline:
        cells.append(_difference(scores, _joined(list(baseline.values()))[0], truth, comparisons))
    else:
        cells.append("")
    cells.append(", ".join(f"{machine} {_auc(one):.3f}" for machine, one in by_machine.items()))
    cells.append(f"{max(one.parameters for one in by_machine.values()):,}")
    cells.append(f"{np.mean([one.seconds for one in by_machine.values()]):.0f}")
    return [*cells, PUBLISHED.get(study, "")]


def _joined(measured: list[Measured]) -> tuple[Scores, Truth]:
    return np.array([score for one in measured for score in one.scores]), Truth(
        ids=tuple(name for one in measured for name in one.ids),
        labels=tuple(label for one in measured for label in one.labels),
    )


def _auc(measured: Measured) -> float:
    scores, truth = _joined([measured])
    return mean_auc(scores, truth)


def _difference(scores: Scores, others: Scores, truth: Truth, comparisons: int) -> str:
    difference = mean_auc(scores, truth) - mean_auc(others, truth)
    interval = interval_of_difference(scores, others, truth)
    if interval is None:
        return f"{difference:+.3f}, too few clips to tell"
    wider = norm.isf(0.025 / comparisons) / norm.isf(0.025)
    nearest = interval.low if difference > 0 else interval.high
    verdict = "better" if difference > 0 else "worse"
    if interval.includes(0):
        verdict = "cannot be told"
    elif (difference - wider * (difference - nearest)) * difference <= 0:
        verdict += " if alone"
    return f"{difference:+.3f} ({interval.low:+.3f} to {interval.high:+.3f}): {verdict}"


def _with_interval(metric: Metric, scores: Scores, truth: Truth) -> str:
    """Mean over machine IDs with its interval, if there is one; n/a where an ID has too few clips for the metric."""
    try:
        value = metric_of(metric, scores, truth)
    except StudyError:
        return "n/a"
    interval = interval_of(scores, truth, metric=metric)
    return f"{value:.3f}, no interval" if interval is None else f"{value:.3f} ({interval.low:.3f}–{interval.high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, help="corpus; not with --demo")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for databases and figures")
    parser.add_argument("--demo", action="store_true", help="clips of 10 s made here")
    parser.add_argument("--studies", nargs="+", default=list(PUBLISHED), help="those of the table if left out")
    parser.add_argument("--families", action="store_true", help="instead of studies: each family of `best` by itself")
    parser.add_argument("--machines", nargs="+", help="all of the corpus if left out")
    parser.add_argument("--trials", type=int, help="of each study, instead of its own number")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="of every study")
    parser.add_argument("--set-of", action="append", default=[], metavar="STUDY:PATH=VALUE", help="of one study")
    asked = parser.parse_args()
    if asked.demo == (asked.root is not None):
        parser.error("give a corpus, or --demo")
    folder: Path = asked.output
    folder.mkdir(parents=True, exist_ok=True)
    root = (folder / "demo" if asked.demo else asked.root).resolve()
    if asked.demo and not root.exists():
        make_corpus(root, train_clips=16, test_clips=20, seconds=10.0)
    machines = asked.machines or ([MACHINE] if asked.demo else read_corpus(root).machines)
    lines = []
    for study in families_of_best(folder) if asked.families else asked.studies:
        name = Path(study).stem
        of_study = [text.partition(":")[2] for text in asked.set_of if text.startswith(f"{name}:")]
        options = [*asked.set, *of_study, f"corpus.root={root}"]
        options += [] if asked.trials is None else [f"search.trials={asked.trials}"]
        found: dict[str, dict[str, Measured]] = defaultdict(dict)
        for machine in machines:
            of_machine = [*options, f"corpus.machines=[{machine}]"]
            opened = prepare(load_study(study, overrides=of_machine), default_root=None).study
            is_grid = opened.search.sampler == "grid"
            wanted = of_a_grid(opened) if is_grid else of_a_search(study, machine, folder, asked, of_machine)
            files = [folder / "figures" / f"{name}-{machine}" / f"{digest(recipe)}.json" for *_, recipe in wanted]
            measured = joblib.Parallel(n_jobs=asked.workers)(
                joblib.delayed(measure)(*what, file) for what, file in zip(wanted, files, strict=True)
            )
            for (setting, is_baseline, _), one in zip(wanted, measured, strict=True):
                if one is not None:  # under its own name: the best trial may be the baseline, and its file the same
                    found[setting][machine] = replace(one, setting=setting, is_baseline=is_baseline)
        baseline = next((of for of in found.values() if next(iter(of.values())).is_baseline), {})
        lines += [row(name, label, of, baseline, comparisons=len(found) - 1) for label, of in found.items()]
    heads = [
        "study",
        "setting",
        "AUC",
        "pAUC",
        "pooled AUC",
        "difference from the baseline",
        "by machine",
        "parameters",
        "s",
        "published",
    ]
    console = Console(width=400, soft_wrap=True)
    console.print(
        f"Held-out test clips of {root.name} ({machine_line()}); s: of CPU for one training, all scores included\n"
    )
    for line in (heads, ["---"] * len(heads), *lines):
        console.print("| " + " | ".join(line) + " |", markup=False, highlight=False)


if __name__ == "__main__":
    main()
