"""Which variant a trial takes: what Offkey's rule is worth, replayed over random splits of the labelled clips.

    python -m benchmarks.variants ROOT [-o FOLDER] [--families ae vae cae classifier] [--trainings 4] [--splits 50]

Random settings of some families of a study (`best`, with smaller networks and more variants) are trained once, and
every variant scores all labelled clips once. With -o the scores are kept in FOLDER, and what is there is not trained
again. Then each split draws half of the clips of each machine ID and label for validation, holds the others out, and
draws an order of the trainings. Every second split swaps the halves of the one before, so that neither is the easier
one in the mean. In a split's order each training takes a variant by its validation AUC, in three ways:

default : the variant by defaults, whatever its AUC
highest : the variant with the highest AUC of this training
offkey  : search.training.choice, by this training and by the earlier ones of its family

optimism : validation AUC less held-out AUC, of the variant that was taken.

A study ends with the training whose variant has the highest validation AUC. Its optimism is also that of having chosen
among trainings, which is the same question for all three. AUCs are means over the machine IDs that have at least two
clips of each label. Splits share clips and trainings: their ranges show what depends on the split, not what other
recordings or other trainings would give.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import numpy.typing as npt
import optuna
from optuna.samplers import RandomSampler
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.pruning import paired, part_of
from benchmarks.sides import machine_line
from features.clips.clip import ANOMALY, NORMAL
from features.clips.corpus import Corpus, read_corpus
from features.errors import UnservedError
from models.scoring.scores import Scores
from search.errors import TrialFailure
from search.evaluation.metrics import metric_of_each
from search.evaluation.truth import Truth
from search.study.space import only_families
from search.study.study import Study
from search.study.study_file import load_study, study_of_tree
from search.study.trial_recipe import trial_recipe
from search.study.variants import Variant, variants_of
from search.training.choice import Table as VariantTable
from search.training.choice import choose
from search.training.objective import train_for_real
from search.training.stores import open_corpus_stores
from search.validation.split import labelled_test_clips

RULES = ("default", "highest", "offkey")
ALL = "all"  # families

#: Overrides of the study: short trainings, and ways to pool.
SHARED = (
    "training.epochs={low: 5, high: 15}",
    "scoring.pooling={choices: [mean, max]}",
    "scoring.windows={choices: [all, quiet, loud]}",
)
_DENSITIES = ("standardize={choices: [false, true]}", "statistic={choices: [mean, quantile, maximum, deviation]}")
_RECONSTRUCTION = (
    "score={choices: [reconstruction, mahalanobis, knn]}",
    "points={choices: [embedding, residual]}",
    *_DENSITIES,
)
#: The same of each family: networks that a CPU trains in seconds, and densities.
OF_FAMILY = {
    "ae": ("h_dim={low: 32, high: 128, log: true}", "z_dim={low: 4, high: 16}", *_RECONSTRUCTION),
    "vae": ("h_dim={low: 32, high: 128, log: true}", "z_dim={low: 4, high: 16}", *_RECONSTRUCTION),
    "cae": ("width={low: 4, high: 8}", "z_dim={low: 8, high: 32, log: true}", *_RECONSTRUCTION),
    "made": ("h_dim={low: 32, high: 128, log: true}", "orderings={low: 1, high: 2}"),
    "group_made": ("h_dim={low: 32, high: 128, log: true}", "context={low: 3, high: 5}"),
    "classifier": (
        "backbone=small",
        "score={choices: [log_odds, cosine, mahalanobis, knn]}",
        *_DENSITIES,
    ),
}

_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Recorded:
    """One training, and the scores of all labelled clips by each of its variants."""

    family: str
    changes: tuple[int, ...]  # of each variant: how many of its settings differ from their defaults
    scores: Scores  # (variants, clips), the variant by defaults first; NaN for one that gives no detector


@dataclass(frozen=True)
class Taken:
    """The variant that a training takes by one rule, in one split."""

    family: str
    rule: str
    validation: float  # AUC
    held_out: float  # AUC

    @property
    def optimism(self) -> float:
        return self.validation - self.held_out


def studies_of(source: str, families: Iterable[str], overrides: Sequence[str]) -> dict[str, Study]:
    """A study of each family alone, with small networks and many variants."""
    tree = load_study(source).space.tree
    studies = {}
    for family in families:
        of_family = [f"model.{family}.{text}" for text in OF_FAMILY.get(family, ())]
        study = study_of_tree(tree, origin=source, overrides=[*SHARED, *of_family, *overrides])
        alone = only_families(study.space.tree, [study.space.families.index(family)])
        studies[family] = study_of_tree(alone, origin=source)
    return studies


def record(study: Study, family: str, number: int, corpus: Corpus, folder: Path | None) -> Recorded | None:
    """Train one random setting of a family, unless that is in the folder. None if it gives no detector."""
    trial = optuna.create_study(sampler=RandomSampler(seed=number)).ask()
    try:
        variants = variants_of(study, trial, partial(trial_recipe, study, threads=1, repeat=number))
    except TrialFailure as failure:
        print(f"{family} {number}: {failure}")
        return None
    file = None if folder is None else folder / f"{family}-{number:03d}-{_digest(variants, corpus)}.npy"
    if file is not None and file.exists():
        scores = np.load(file)
    else:
        scores = _scores(variants, corpus)
        if file is not None:
            np.save(file, scores)
    if not np.isfinite(scores).all(axis=1).any():
        print(f"{family} {number} gives no detector of these clips")
        return None
    return Recorded(family, tuple(variant.changes for variant in variants), scores)


def _scores(variants: Sequence[Variant], corpus: Corpus) -> Scores:
    """The scores of all labelled clips by each variant of one training, (variants, clips); NaN where there are none."""
    clips = len(labelled_test_clips(corpus))
    nothing = np.full((len(variants), clips), np.nan)
    recipes = [variant.recipe for variant in variants]
    try:
        training = train_for_real(recipes[0], corpus, "cpu")
        while training.epoch < recipes[0].epochs:
            training.run_epoch(lambda: None)
        scores = training.scores_of_variants(recipes)
    except (TrialFailure, UnservedError) as failure:
        print(failure)
        return nothing
    return np.array([np.full(clips, np.nan) if isinstance(one, Exception) else one for one in scores])


def _digest(variants: Sequence[Variant], corpus: Corpus) -> str:
    recipes = [variant.recipe.model_dump(mode="json", exclude={"corpus": {"root"}}) for variant in variants]
    return hashlib.sha256(f"{corpus.fingerprint} {json.dumps(recipes, sort_keys=True)}".encode()).hexdigest()[:16]


def in_strata(truth: Truth) -> _Mask:
    """Which clips count: those of the machine IDs that have at least two clips of each label."""
    ids, labels = np.array(truth.ids), np.array(truth.labels)
    enough = [
        name
        for name in sorted(set(truth.ids))
        if min(int(((ids == name) & (labels == label)).sum()) for label in (NORMAL, ANOMALY)) > 1
    ]
    return np.isin(ids, enough)


def half(truth: Truth, rng: np.random.Generator) -> _Mask:
    """A random half of the clips of each machine ID and label; of an odd number, the smaller or the larger one."""
    ids, labels = np.array(truth.ids), np.array(truth.labels)
    chosen = np.zeros(len(ids), dtype=bool)
    for name in sorted(set(truth.ids)):
        for label in (NORMAL, ANOMALY):
            members = np.flatnonzero((ids == name) & (labels == label))
            count = (len(members) + int(rng.integers(2))) // 2
            chosen[rng.choice(members, min(max(count, 1), len(members) - 1), replace=False)] = True
    return chosen


def replay(recorded: Sequence[Recorded], truth: Truth, *, seed: int) -> list[Taken]:
    """What each training takes by each rule, in one split and order; an odd seed swaps the halves of the one before."""
    validates = half(truth, np.random.default_rng(seed // 2)) ^ bool(seed % 2)
    rng = np.random.default_rng(seed)
    seen, unseen = part_of(truth, validates), part_of(truth, ~validates)
    earlier: dict[str, list[VariantTable]] = defaultdict(list)
    taken = []
    for number in rng.permutation(len(recorded)):
        training = recorded[number]
        own, held_out = (_aucs(training.scores[:, m], t) for m, t in ((validates, seen), (~validates, unseen)))
        # Two trainings of a family may differ in which values exclude each other. Then their variants do not match.
        others = [table for table in earlier[training.family] if len(table) == len(own)]
        choices = {
            "default": int(np.flatnonzero(np.isfinite(own))[0]),
            "highest": int(np.nanargmax(own)),
            "offkey": choose(own, others, training.changes),
        }
        earlier[training.family].append(own)
        taken += [Taken(training.family, rule, float(own[v]), float(held_out[v])) for rule, v in choices.items()]
    return taken


def _aucs(scores: Scores, truth: Truth) -> VariantTable:
    """The AUC of each variant, (variants,); NaN for one without scores."""
    finite = np.isfinite(scores).all(axis=1)
    aucs = np.full(len(scores), np.nan)
    aucs[finite] = metric_of_each("auc", scores[finite], truth)
    return aucs


#: What is made of the trainings of one split and rule: one validation AUC, one held-out AUC.
Ends = Callable[[Sequence[Taken]], tuple[float, float]]


def in_the_mean(taken: Sequence[Taken]) -> tuple[float, float]:
    """The means over all trainings."""
    return float(np.mean([one.validation for one in taken])), float(np.mean([one.held_out for one in taken]))


def of_the_best(taken: Sequence[Taken]) -> tuple[float, float]:
    """The AUCs of the training with which a study ends; the first of several."""
    best = max(taken, key=lambda one: one.validation)
    return best.validation, best.held_out


def aucs_of(splits: Sequence[Sequence[Taken]], group: str, rule: str, ends: Ends) -> npt.NDArray[np.float64]:
    """Validation and held-out AUC of a family, or of all, by one rule: (splits, 2)."""
    return np.array([ends([t for t in taken if t.rule == rule and group in (t.family, ALL)]) for taken in splits])


def show(console: Console, splits: Sequence[Sequence[Taken]], ends: Ends, title: str) -> None:
    families = list(dict.fromkeys(one.family for one in sorted(splits[0], key=lambda one: one.family)))
    table = Table("family", "rule", "validation AUC", "held-out AUC", "optimism", title=title, title_justify="left")
    claims = Table(
        "family",
        "optimism, offkey over highest",
        "held-out AUC, offkey − highest",
        "held-out AUC, offkey − default",
        title="Ratio of means; difference: mean (95 % over splits), splits higher / lower",
        title_justify="left",
    )
    for group in (*families, ALL):
        aucs = {rule: aucs_of(splits, group, rule, ends) for rule in RULES}
        for rule, values in aucs.items():
            cells = (values[:, 0], values[:, 1], values[:, 0] - values[:, 1])
            table.add_row(group, rule, *map(spread, cells), end_section=rule == RULES[-1])
        optimism = {rule: float((values[:, 0] - values[:, 1]).mean()) for rule, values in aucs.items()}
        ratio = f"{optimism['offkey'] / optimism['highest']:.2f}" if optimism["highest"] > 0 else "no optimism"
        differences = (aucs["offkey"][:, 1] - aucs[other][:, 1] for other in ("highest", "default"))
        claims.add_row(group, ratio, *map(paired, differences))
    console.print(table)
    console.print(claims)


def spread(values: npt.NDArray[np.float64]) -> str:
    """The mean, and the range of the middle 80 % of splits."""
    low, high = np.quantile(values, [0.1, 0.9])
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="corpus with labelled test clips")
    parser.add_argument("-o", "--output", type=Path, help="folder for the scores")
    parser.add_argument("--study", default="best", help="a study that has the families")
    parser.add_argument("--families", nargs="+", default=["ae", "vae", "cae", "classifier"])
    parser.add_argument("--machines", nargs="+", help="all of the corpus if left out")
    parser.add_argument("--trainings", type=int, default=4, help="of each family")
    parser.add_argument("--splits", type=int, default=50)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="of the study")
    parser.add_argument("--jobs", type=int, default=1, help="processes; -1: as many as there are cores")
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if asked.output is not None:
        asked.output.mkdir(parents=True, exist_ok=True)
    corpus = read_corpus(asked.root).for_study(asked.machines)
    studies = studies_of(asked.study, asked.families, asked.set)
    for study in studies.values():
        open_corpus_stores(corpus, study.first_recipe())
    wanted = [(study, family, number) for family, study in studies.items() for number in range(asked.trainings)]
    run = joblib.Parallel(asked.jobs, return_as="generator")
    found = run(joblib.delayed(record)(*what, corpus, asked.output) for what in wanted)
    recorded = [one for one in track(found, "trainings", total=len(wanted)) if one is not None]
    truth = Truth.of(labelled_test_clips(corpus))
    counts = in_strata(truth)
    truth = part_of(truth, counts)
    recorded = [Recorded(one.family, one.changes, one.scores[:, counts]) for one in recorded]
    splits = list(
        track(
            joblib.Parallel(asked.jobs, return_as="generator")(
                joblib.delayed(replay)(recorded, truth, seed=seed) for seed in range(asked.splits)
            ),
            "splits",
            total=asked.splits,
        )
    )
    console = Console(width=130)
    variants = ", ".join(
        f"{family} {max(len(one.scores) for one in recorded if one.family == family)}"
        for family in dict.fromkeys(one.family for one in recorded)
    )
    console.print(
        f"{corpus.root.name}: {len(recorded)} trainings, {len(truth)} labelled clips of {len(set(truth.ids))} "
        f"machine IDs, {asked.splits} splits; variants: {variants} ({machine_line()})\n"
        "Mean (range of the middle 80 % of splits).\n"
    )
    show(console, splits, in_the_mean, "Each training, mean over trainings")
    show(console, splits, of_the_best, "The study's best training")


if __name__ == "__main__":
    main()
