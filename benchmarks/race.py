"""Offkey against what one writes without it: seconds to a validation AUC, and the held-out AUC after 30 s to 300 s.

    python -m benchmarks.race ROOT [--seconds 300] [--repeats 3] [--workers 2] [-o race.png] [--folder DIR]

offkey best, offkey vae_tuning : `offkey search` with the studies as they ship, and --hours
plain Optuna, Ray Tune + ASHA  : the network and the space of vae_tuning in plain torch (benchmarks/peers.py);
                                 Ray Tune needs `pip install 'ray[tune]'` and is left out without it

Every side is a command with an empty cache; its clock runs from its start to the moment at which a trial is complete,
with the interpreter's imports and the features. All have the same training, validation and held-out clips, by Offkey's
split. No search sees the labels of held-out clips. A side's detector at a time is its best by validation. Its held-out
AUC is computed outside the clock: Offkey's trials are trained once more (exactly, which is checked), a peer's weights
are loaded. A search that runs on after its time is ended. Repeats differ in their seeds; sides take turns.

Last, both sides train the same settings to the same budget, without pruning: vae_tuning's random trials (12 of 20
epochs; --budget), then the same ones by the plain script. On both, a trial ends early if its network diverges.

With --folder, what is there is not run again. Run it on an idle machine; it takes 20 minutes for each repeat.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks import peers
from benchmarks.race_results import Finished, Run, plot, show, show_leads, target_of
from benchmarks.sides import machine_line
from benchmarks.sides import show as show_sides
from features.clips.clip import Clip
from features.clips.corpus import Corpus, read_corpus
from search.study.study_file import load_study
from search.validation.split import blind, held_out_clips, training_clips, validation_clips

if TYPE_CHECKING:
    from search.study.recipe import Recipe

BEST, TUNING, OPTUNA, RAY = "offkey best", "offkey vae_tuning", "plain Optuna", "Ray Tune + ASHA"
OURS, PEERS = (BEST, TUNING), (OPTUNA, RAY)
MOMENTS = (30, 60, 120, 300)

#: Seconds that a search has to end after it was asked to.
_GRACE = 30


@dataclass(frozen=True)
class Contest:
    """What all sides have in common."""

    root: Path
    machines: Sequence[str] | None
    workers: int
    seconds: float

    @cached_property
    def corpus(self) -> Corpus:
        return read_corpus(self.root).for_study(self.machines)

    @cached_property
    def held_out(self) -> peers.Labelled:
        """The clips that no search sees."""
        chosen = held_out_clips(self.corpus, load_study("vae_tuning").validation)
        return peers.Labelled.of(_labelled(chosen), self.workers)

    def task(self) -> peers.Task:
        """What the peers are given: the clips that vae_tuning trains on and is validated with."""
        study = load_study("vae_tuning")
        visible = blind(self.corpus, study.validation)
        return peers.Task(
            train=[str(clip.path.resolve()) for clip in training_clips(visible, study.first_recipe()).train],
            validation=_labelled(validation_clips(self.corpus, study.validation)),
            workers=self.workers,
            seconds=self.seconds,
        )

    def offkey(self, study: str, folder: Path, *settings: str) -> list[str]:
        """The command of a search in a folder."""
        overrides = [f"corpus.root={self.root.resolve()}", *settings]
        overrides += [] if self.machines is None else [f"corpus.machines=[{', '.join(self.machines)}]"]
        command = [sys.executable, "-P", "-m", "search.cli", "search", study, "--workers", str(self.workers)]
        command += ["--storage", f"sqlite:///{folder.resolve()}/study.db"]
        return [*command, *(part for text in overrides for part in ("--set", text))]


def _labelled(clips: Sequence[Clip]) -> list[tuple[str, str, int]]:
    return [(str(clip.path.resolve()), clip.id_name, clip.label) for clip in clips if clip.label is not None]


def peer_command(peer: str, folder: Path) -> list[str]:
    return [sys.executable, "-P", peers.__file__, peer, str(folder.resolve())]


def timed(command: list[str], folder: Path, *, seconds: float | None = None) -> tuple[float, float]:
    """Run a command with an empty cache, for so long at most; return when it began, and how many seconds it took.

    Raises CalledProcessError if it fails before its time is over; what it wrote is in FOLDER/log.
    """
    surroundings = os.environ | {"OFFKEY_CACHE": str(folder.resolve() / "cache")}
    began, start = time.time(), time.perf_counter()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=surroundings, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = 0
            os.killpg(process.pid, signal.SIGTERM)  # SIGINT is ignored by what runs in the background
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its workers, too
            process.wait()
    took = time.perf_counter() - start
    if code and (seconds is None or took < seconds - 1):
        print((folder / "log").read_text()[-3000:])
        raise subprocess.CalledProcessError(code, command)
    return began, took


def run_offkey(study: str, contest: Contest, folder: Path, seed: int, moments: Sequence[float]) -> Run:
    """Search with a study that ships; then train each detector that led at one of the moments once more."""
    import optuna

    from search.results.export import recipe_of
    from search.storage.stored_study import open_study

    command = contest.offkey(study, folder, f"search.seed={seed}", f"search.hours={contest.seconds / 3600}")
    began, _ = timed(command, folder, seconds=contest.seconds)
    os.environ["OFFKEY_CACHE"] = str(folder.resolve() / "cache")
    with open_study(f"sqlite:///{folder.resolve()}/study.db", study) as (storage, stored):
        found = optuna.load_study(study_name=study, storage=storage).get_trials(
            states=(optuna.trial.TrialState.COMPLETE,)
        )
        finished = [
            Finished(trial.datetime_complete.timestamp() - began, trial.values[0], str(trial.number))
            for trial in found
            if trial.datetime_complete is not None and trial.values
        ]
        recipes = {str(trial.number): recipe_of(stored, trial) for trial in found}
    return with_held_out(finished, moments, lambda one: retrained(recipes[one.name], one))


def retrained(recipe: Recipe, trial: Finished) -> float:
    """The held-out AUC of a trial's detector, which is trained once more."""
    import torch

    from search.detector.final_training import train_detector
    from search.preparation.prepared import prepare_recipe

    detector = train_detector(prepare_recipe(recipe, default_root=None, tell=lambda line: None), torch.device("cpu"))
    if detector.value != trial.validation:
        print(f"trial {trial.name} had a validation AUC of {trial.validation}, but trained anew it is {detector.value}")
    assert detector.test is not None
    return detector.test.auc


def run_peer(peer: str, contest: Contest, folder: Path, seed: int, moments: Sequence[float]) -> Run:
    replace(contest.task(), seed=seed).write(folder)
    began, _ = timed(peer_command(peer, folder), folder, seconds=contest.seconds)
    rows: dict[str, Finished] = {}
    if (folder / "finished.jsonl").exists():
        for line in (folder / "finished.jsonl").read_text().splitlines():
            row = json.loads(line)
            rows[row["trial"]] = Finished(row["time"] - began, row["auc"], row["trial"])  # the last of each trial

    def auc(one: Finished) -> float:
        return peers.auc_of(peers.Vae.of_file(folder / f"{one.name}.pt"), contest.held_out)

    return with_held_out(list(rows.values()), moments, auc)


def with_held_out(finished: list[Finished], moments: Sequence[float], auc: Callable[[Finished], float]) -> Run:
    """The run with the held-out AUC of each detector that led at one of the moments, the last of which is the end."""
    run = Run(tuple(sorted((one for one in finished if one.seconds <= moments[-1]), key=lambda one: one.seconds)))
    leaders = {best for moment in moments if (best := run.best_at(moment)) is not None}
    return replace(run, held_out={leader.name: auc(leader) for leader in leaders})


RUNNERS: dict[str, Callable[[Contest, Path, int, Sequence[float]], Run]] = {
    BEST: lambda *given: run_offkey("best", *given),
    TUNING: lambda *given: run_offkey("vae_tuning", *given),
    OPTUNA: lambda *given: run_peer("optuna", *given),
    RAY: lambda *given: run_peer("ray", *given),
}


def same_budget(contest: Contest, folder: Path, seed: int, trials: int, epochs: int) -> dict[str, float]:
    """Seconds in which vae_tuning trains random settings, and in which the plain script trains the same ones."""
    import optuna

    from search.storage.stored_study import open_study

    ours, plain = folder / "ours", folder / "plain"
    for side in (ours, plain):
        side.mkdir()
    of_budget = [f"search.trials={trials}", f"training.epochs={epochs}"]
    how = [f"search.seed={seed}", "search.sampler=random", "search.pruner=none"]
    _, ours_took = timed(contest.offkey("vae_tuning", ours, *of_budget, *how), ours)
    with open_study(f"sqlite:///{ours.resolve()}/study.db", "vae_tuning") as (storage, _):
        params = [t.params for t in optuna.load_study(study_name="vae_tuning", storage=storage).trials]
    names = ("h_dim", "z_dim", "learning_rate", "batch_size")
    settings = [{name: of_trial[name] for name in names} | {"epochs": epochs} for of_trial in params]
    replace(contest.task(), seed=seed, trials=trials, settings=settings, seconds=1e6).write(plain)
    _, plain_took = timed(peer_command("optuna", plain), plain)
    return {TUNING: ours_took, OPTUNA: plain_took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="corpus with labelled test clips")
    parser.add_argument("--seconds", type=float, default=300, help="of each search")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--machines", nargs="+", help="all of the corpus if left out")
    parser.add_argument("--sides", nargs="+", default=list(RUNNERS), choices=list(RUNNERS))
    parser.add_argument("--budget", nargs=2, type=int, default=(12, 20), metavar=("TRIALS", "EPOCHS"), help="0 0: none")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the plot: .png, .svg or .pdf")
    parser.add_argument("--folder", type=Path, help="keeps every run")
    asked = parser.parse_args()
    sides = list(asked.sides)
    if RAY in sides and not has_ray_tune():
        print(f"{RAY} is left out: pip install 'ray[tune]'", file=sys.stderr)
        sides.remove(RAY)
    contest = Contest(asked.root, asked.machines, asked.workers, asked.seconds)
    trials, epochs = asked.budget
    moments = [*(moment for moment in MOMENTS if moment < asked.seconds), asked.seconds]
    with tempfile.TemporaryDirectory() as temporary:
        race: dict[str, list[Run]] = {side: [] for side in sides}
        budget: dict[str, list[float]] = {TUNING: [], OPTUNA: []}
        for seed in range(asked.repeats):
            folder = (asked.folder or Path(temporary)) / f"repeat-{seed}"
            for side in sides:
                race[side].append(_run(side, contest, folder, seed, moments))
            if trials:
                for side, seconds in _same_budget(contest, folder, seed, trials, epochs).items():
                    budget[side].append(seconds)
    console = Console(width=150)
    where = f"{contest.root.name}, {contest.workers} workers, {os.cpu_count()} cores ({machine_line()})"
    title = f"{where}; median (range) of {asked.repeats}"
    show(console, race, target=target_of(race, PEERS), moments=moments, title=title)
    show_leads(console, race, OURS, PEERS, moments)
    if trials:
        show_sides(f"The same {trials} trials of {epochs} epochs, without pruning; {where}", budget, ours=TUNING)
    if asked.output is not None:
        plot(race, moments=moments, seconds=asked.seconds).savefig(asked.output)


def has_ray_tune() -> bool:
    """Whether Ray Tune can be imported, with what it needs."""
    if importlib.util.find_spec("ray") is None:
        return False
    try:
        importlib.import_module("ray.tune")
    except ImportError:
        return False
    return True


def _run(side: str, contest: Contest, folder: Path, seed: int, moments: Sequence[float]) -> Run:
    """One side's run, unless it is in the folder."""
    own = folder / side.replace(" ", "-")
    if not (own / "run.json").exists():
        _make_anew(own)
        RUNNERS[side](contest, own, seed, moments).write(own / "run.json")
    return Run.read(own / "run.json")


def _same_budget(contest: Contest, folder: Path, seed: int, trials: int, epochs: int) -> dict[str, float]:
    file = folder / f"budget-{trials}-{epochs}.json"
    if not file.exists():
        own = folder / f"budget-{trials}-{epochs}"
        _make_anew(own)
        file.write_text(json.dumps(same_budget(contest, own, seed, trials, epochs)))
    seconds: dict[str, float] = json.loads(file.read_text())
    return seconds


def _make_anew(folder: Path) -> None:
    """Makes an empty folder; what is there is left of a run that was ended."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


if __name__ == "__main__":
    main()
