"""How often `search.stop: told_apart` ends a study falsely, and how many trials it saves: studies replayed.

    python -m benchmarks.stop [--seeds 100] [--trials 200]
    python -m benchmarks.stop --study NAME [--storage URL] [--seeds 100]

Without a study, made ones whose true AUCs are known (benchmarks/stop_studies.py). After each trial the rule
(search.sampling.enough) is asked as a worker asks it. Where it says enough, the trial that is the best by then is
compared with the best one of the whole budget.

false stop     : the whole budget's best is truly better by more than 1.96 standard errors of the difference of the two:
                 by more than the validation clips can tell. The rate is among all studies, ended or not.
on fresh clips : the same judged by as many other clips: the 95 % interval of the difference of the two lies above 0.
                 For two equally good trials that happens in 2.5 % of the draws of clips.
lost           : by how much the whole budget's best is truly better; mean, and the 95 % quantile.
nothing more   : studies in which the whole budget's best is not truly better, by more than the clips can tell, than
                 the best of the first quarter of the trials. There the rule should save trials.

With a study of a storage, its own trials. Each seed draws an order of the sampler's trials, and half of the validation
clips of each machine ID, label and domain, which validates. The other half stands for the truth: there, false stops are
those "on fresh clips".
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import compress

import numpy as np
import numpy.typing as npt
import optuna
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from benchmarks.stop_studies import CLIPS, LANDSCAPES, Studies, make
from search.evaluation.metrics import Metric, metric_of
from search.evaluation.noise import noise_of
from search.evaluation.truth import Truth
from search.sampling.enough import TOLD, Values, may_be_enough, prospect
from search.storage.database import default_url
from search.storage.stored_study import open_study
from search.storage.study_ledger import StudyLedger

#: The first 1/4 of the trials has found all that there is, where nothing more is to be found.
EARLY = 4

Noise = Callable[[int], Values | None]
Judge = Callable[[int, int], bool]


@dataclass(frozen=True)
class Replay:
    """One study with all the trials of its budget, and what is known of the truth."""

    values: Values  # NaN for a pruned trial
    drawn: npt.NDArray[np.bool_]
    families: npt.NDArray[np.int64]
    count: int  # of families
    noise: Noise
    gain: Callable[[int, int], float]  # by how much one trial is truly better than another
    is_better: Judge  # truly, by more than the validation clips can tell
    is_told_on_fresh_clips: Judge

    def ends_after(self) -> int:
        """After how many trials the rule ends the study; all of them if it does not."""
        budget = len(self.values)
        for ended in range(1, budget):
            if may_be_enough(ended, budget - ended):
                found = prospect(
                    self.values[:ended],
                    self.drawn[:ended],
                    self.families[:ended],
                    self.noise,
                    remaining=budget - ended,
                    count=self.count,
                )
                if found is not None and found.is_enough:
                    return ended
        return budget

    def outcome(self) -> Outcome:
        """What the rule does with this study."""
        budget, after = len(self.values), self.ends_after()
        early, stopped, best = (int(np.nanargmax(self.values[:n])) for n in (budget // EARLY, after, budget))
        return Outcome(
            saved=1 - after / budget,
            false=best != stopped and self.is_better(best, stopped),
            false_on_fresh=best != stopped and self.is_told_on_fresh_clips(best, stopped),
            lost=self.gain(best, stopped),
            nothing_more=best == early or not self.is_better(best, early),
        )


@dataclass(frozen=True)
class Outcome:
    """Of one replayed study."""

    saved: float  # share of the budget
    false: bool
    false_on_fresh: bool
    lost: float  # AUC
    nothing_more: bool


def made(studies: Studies) -> Iterator[Replay]:
    """The replays of made studies."""
    for study, (truth, noise) in enumerate(zip(studies.truth, studies.noise, strict=True)):

        def is_better(one: int, other: int, truth: Values = truth, noise: Values = noise) -> bool:
            return bool(truth[one] - truth[other] > TOLD * np.linalg.norm(noise[one] - noise[other]))

        def is_told(one: int, other: int, study: int = study) -> bool:
            return studies.is_told_on_fresh_clips(study, one, other, margin=TOLD)

        yield Replay(
            values=studies.values[study],
            drawn=studies.drawn,
            families=studies.families[study],
            count=studies.count,
            noise=noise.__getitem__,
            gain=lambda one, other, truth=truth: float(truth[one] - truth[other]),  # type: ignore[misc]
            is_better=is_better,
            is_told_on_fresh_clips=is_told,
        )


class Half:
    """Half of a study's validation clips: what it says of the trials, by their position."""

    def __init__(self, truth: Truth, clips: npt.NDArray[np.int64], metric: Metric, scores: Sequence[Values]) -> None:
        self._truth = truth.at(clips)
        self._clips, self._metric, self._scores = clips, metric, scores
        self.noise: Noise = cache(self._noise)

    def value(self, trial: int) -> float:
        return metric_of(self._metric, self._scores[trial][self._clips], self._truth)

    def gain(self, one: int, other: int) -> float:
        return self.value(one) - self.value(other)

    def is_told(self, one: int, other: int) -> bool:
        """Whether the half tells one trial to be better than another."""
        first, second = self.noise(one), self.noise(other)
        if first is None or second is None:
            raise SystemExit("the study has too few validation clips to judge by half of them")
        return bool(self.gain(one, other) > TOLD * np.linalg.norm(first - second))

    def _noise(self, trial: int) -> Values | None:
        noise = noise_of(self._scores[trial][self._clips], self._truth, metric=self._metric)
        return None if noise is None else np.array(noise)


def halves(truth: Truth, rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The clips of two halves: of each machine ID, label and domain, half of the recordings."""
    recordings = np.array(truth.recordings or range(len(truth)))
    strata: dict[tuple[str, int, str], list[int]] = {}
    for recording, clip in zip(*np.unique(recordings, return_index=True), strict=True):
        domain = truth.domains[clip] if truth.domains else None
        strata.setdefault((truth.ids[clip], truth.labels[clip], domain or ""), []).append(recording)
    drawn = [rng.permutation(members)[: len(members) // 2] for members in strata.values()]
    is_first = np.isin(recordings, np.concatenate(drawn))
    return np.flatnonzero(is_first), np.flatnonzero(~is_first)


def real(name: str, url: str, seeds: int) -> Iterator[Replay]:
    """The replays of a stored study."""
    with open_study(url, name) as (storage, stored):
        scores = StudyLedger(storage, stored).scores()
        trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    ended = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED) and t.number in scores]
    names = sorted({str(trial.params.get("family")) for trial in ended})
    families = np.array([names.index(str(trial.params.get("family"))) for trial in ended])
    drawn = np.array([trial.number not in stored.tried_first for trial in ended])
    complete = np.array([trial.state == TrialState.COMPLETE for trial in ended])
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        order = np.r_[np.flatnonzero(~drawn), rng.permutation(np.flatnonzero(drawn))]
        in_order = [scores[ended[place].number] for place in order]
        steering, judge = (Half(stored.truth, half, stored.metric, in_order) for half in halves(stored.truth, rng))
        values = np.full(len(order), np.nan)
        values[complete[order]] = [steering.value(place) for place in compress(range(len(order)), complete[order])]
        yield Replay(
            values=values,
            drawn=drawn[order],
            families=families[order],
            count=len(names),
            noise=steering.noise,
            gain=judge.gain,
            is_better=judge.is_told,
            is_told_on_fresh_clips=judge.is_told,
        )


def cells(of: Sequence[Outcome]) -> list[str]:
    lost = [outcome.lost for outcome in of]
    settled = [outcome.saved for outcome in of if outcome.nothing_more]
    return [
        f"{np.mean([outcome.saved > 0 for outcome in of]):.0%}",
        f"{np.mean([outcome.saved for outcome in of]):.0%}",
        f"{np.mean([outcome.false for outcome in of]):.1%}",
        f"{np.mean([outcome.false_on_fresh for outcome in of]):.1%}",
        f"{np.mean(lost):.3f} ({np.quantile(lost, 0.95):.3f})",
        f"{len(settled) / len(of):.0%}",
        f"{np.mean(settled):.0%}" if settled else "—",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--trials", type=int, default=200, help="of a made study")
    parser.add_argument("--study", help="a study of the storage, in place of made ones")
    parser.add_argument("--storage", default=None)
    arguments = parser.parse_args()
    columns = ("clips", "ended", "saved", "false stop", "on fresh clips", "lost", "nothing more", "saved there")
    if arguments.study is not None:
        replays = real(arguments.study, arguments.storage or default_url(), arguments.seeds)
        of_study = [replay.outcome() for replay in replays]
        table = Table("", *columns[1:], title=f"{arguments.seeds} orders and halves of the clips")
        table.add_row(arguments.study, *cells(of_study))
        Console(width=150).print(table)
        return
    table = Table("", *columns, title=f"Studies of {arguments.trials} trials, {arguments.seeds} seeds each")
    announced: list[Outcome] = []
    for name, landscape in LANDSCAPES.items():
        for clips in CLIPS:
            studies = make(landscape, clips=clips, seeds=arguments.seeds, trials=arguments.trials)
            of_landscape = [replay.outcome() for replay in made(studies)]
            table.add_row(name if clips == CLIPS[0] else "", f"{clips} + {clips}", *cells(of_landscape))
            announced += [] if landscape.jump else of_landscape
    table.add_row("all but the jump", "", *cells(announced), style="bold")
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
