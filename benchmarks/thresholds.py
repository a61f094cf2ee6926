"""False-alarm rates that thresholds give, beside those that they promise: over drawn scores, and over trained models.

    python -m benchmarks.thresholds [--draws 2000] [--repeats 20] [--seed 0]

The first table draws the scores of normal clips from known distributions, sets a threshold by some of them, and gives
the mean share of the distribution above it: by `numpy.quantile(method="higher")`, by the rank that
`models.scoring.threshold` counts, and by a fitted gamma distribution.

The second trains models on 20 normal clips of each machine ID of the synthetic sounds, and counts the false alarms
among 80 others. `withheld`: 9 clips set the threshold, and 11 train the model. `folds`: all 20 train the model, and
each gets its score for the threshold by another model, which was trained without its fifth of the clips. `own`: all 20
train the model, which then scores them itself.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
from rich.console import Console
from rich.table import Table

from features.clips.clip import NORMAL, Clip
from features.clips.corpus import Corpus, read_corpus
from features.clips.synthetic_corpus import make_corpus
from models.scoring.scores import Scores
from models.scoring.threshold import gamma_quantile, normal_quantile
from search.evaluation.metrics import mean_auc
from search.evaluation.truth import Truth
from search.study.recipe import Recipe, ValidationSettings
from search.training.loop import Training
from search.training.stores import open_corpus_stores
from search.validation.split import folds_of

RATE = 0.1
TRAINING_CLIPS, OTHER_CLIPS, WITHHELD_SHARE, FOLDS = 20, 80, 0.45, 5

DISTRIBUTIONS: dict[str, Any] = {
    "normal": scipy.stats.norm(),
    "gamma": scipy.stats.gamma(2),
    "log-normal": scipy.stats.lognorm(0.8),
    "Student's t": scipy.stats.t(4),
}

FAMILIES: dict[str, dict[str, Any]] = {
    "stat, mahalanobis": {"model": {"family": "stat", "score": "mahalanobis"}},
    "stat, knn": {"model": {"family": "stat", "score": "knn"}},
    "ae, a model for each ID": {"model": {"family": "ae", "per_id": True}, "training": {"epochs": 10}},
    "vae": {"model": {"family": "vae"}, "training": {"epochs": 10}},
    "classifier": {"model": {"family": "classifier", "frames": 32}, "training": {"epochs": 10}},
}


def drawn_table(draws: int, seed: int) -> Table:
    """Mean false-alarm rates over drawn scores."""
    rng = np.random.default_rng(seed)
    rules: dict[str, Callable[[Scores, float], float]] = {
        "numpy": lambda scores, rate: float(np.quantile(scores, 1 - rate, method="higher")),
        "rank": lambda scores, rate: normal_quantile(scores, false_alarm_rate=rate),
        "gamma": lambda scores, rate: gamma_quantile(scores, false_alarm_rate=rate),
    }
    table = Table("clips", "promised", "by", *DISTRIBUTIONS, box=None)
    for clips in (1, 5, 9, 11, 20, 49, 100):
        for rate in (0.1, 0.02):
            for name, rule in rules.items():
                means = []
                for distribution in DISTRIBUTIONS.values():
                    count = draws // 10 if name == "gamma" else draws  # each takes five fits
                    scores = distribution.rvs(size=(count, clips), random_state=rng)
                    means.append(np.mean(distribution.sf([rule(row, rate) for row in scores])))
                table.add_row(str(clips), f"{rate:g}", name, *(f"{mean:.3f}" for mean in means))
    return table


def parts_of(corpus: Corpus, rng: np.random.Generator) -> Corpus:
    """A corpus with TRAINING_CLIPS training clips of each ID, and OTHER_CLIPS of them as normal test clips."""
    by_id: dict[str, list[Clip]] = defaultdict(list)
    for clip in corpus.clips:
        if clip.split == "train":
            by_id[clip.id_name].append(clip)
    role: dict[str, str] = {}
    for clips in by_id.values():
        order = rng.permutation(len(clips))[: TRAINING_CLIPS + OTHER_CLIPS]
        role |= {clips[index].name: "train" if place < TRAINING_CLIPS else "test" for place, index in enumerate(order)}
    return replace(corpus, clips=tuple(_in_roles(corpus.clips, role)))


def _in_roles(clips: Sequence[Clip], role: dict[str, str]) -> Iterator[Clip]:
    for clip in clips:
        if (clip.split == "test" and clip.label != NORMAL) or role.get(clip.name) == "train":
            yield clip
        elif clip.name in role:
            yield replace(clip, split="test", label=NORMAL)


def trained(settings: dict[str, Any], corpus: Corpus, *, withheld: float, seed: int) -> Training:
    """A finished training."""
    training = {**settings.get("training", {}), "calibration_share": withheld, "seed": seed, "threads": 1}
    # The seed of the validation draws the withheld clips, too: a clip is not withheld in every draw that has it.
    validation = {"seed": seed}
    recipe = Recipe.model_validate({"study": "thresholds", **settings, "training": training, "validation": validation})
    model = Training(recipe, corpus, torch.device("cpu"))
    while model.epoch < recipe.epochs:
        model.run_epoch()
    return model


def scores_for_threshold(
    way: str, settings: dict[str, Any], corpus: Corpus, seed: int
) -> tuple[Training, Sequence[Clip], Scores]:
    """The detector, and the clips that set its thresholds, with their scores."""
    if way == "withheld":
        model = trained(settings, corpus, withheld=WITHHELD_SHARE, seed=seed)
        return model, model.clips.withheld, model.scores_of(model.clips.withheld)
    model = trained(settings, corpus, withheld=0, seed=seed)
    if way == "own":
        return model, model.clips.train, model.scores_of(model.clips.train)
    clips: list[Clip] = []
    scores = []
    for view in folds_of(corpus, ValidationSettings(folds=FOLDS, seed=seed), "development"):
        left_out = {clip.name for clip in model.clips.train} & {
            clip.name for clip in view.clips if clip.split == "test"
        }
        of_fold = [clip for clip in view.clips if clip.name in left_out]
        scores.append(trained(settings, view, withheld=0, seed=seed).scores_of(of_fold))
        clips += of_fold
    return model, clips, np.concatenate(scores)


def false_alarms(way: str, settings: dict[str, Any], corpus: Corpus, seed: int) -> tuple[list[float], float]:
    """The share of other normal clips above the threshold, for each machine ID; and the AUC on all test clips."""
    model, clips, own = scores_for_threshold(way, settings, corpus, seed)
    others = [clip for clip in corpus.clips if clip.split == "test"]
    scores, truth = model.scores_of(others), Truth.of(others)
    ids, labels, own_ids = np.array(truth.ids), np.array(truth.labels), np.array([clip.id_name for clip in clips])
    shares = []
    for name in sorted(set(truth.ids)):
        threshold = normal_quantile(own[own_ids == name], false_alarm_rate=RATE)
        shares.append(float(np.mean(scores[(ids == name) & (labels == NORMAL)] > threshold)))
    return shares, mean_auc(scores, truth)


def trained_tables(repeats: int, seed: int) -> Iterator[Table]:
    """Mean false-alarm rates of trained models on clips that they were not trained on; a table for each model."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["OFFKEY_CACHE"] = str(Path(folder) / "cache")
        make_corpus(Path(folder) / "corpus", train_clips=150, test_clips=40, seconds=2.0)
        corpus = read_corpus(Path(folder) / "corpus")
        draws = [parts_of(corpus, np.random.default_rng([seed, repeat])) for repeat in range(repeats)]
        for name, settings in FAMILIES.items():
            for draw in draws:
                open_corpus_stores(draw, Recipe.model_validate({"study": "thresholds", **settings}))
            table = Table(name, "mean false-alarm rate", "± s.e.", "5 % to 95 % of IDs", "mean AUC", box=None)
            for way in ("withheld", "folds", "own"):
                found = [false_alarms(way, settings, draw, repeat) for repeat, draw in enumerate(draws)]
                means = np.array([np.mean(shares) for shares, _ in found])
                low, high = np.quantile([share for shares, _ in found for share in shares], [0.05, 0.95])
                table.add_row(
                    way,
                    f"{means.mean():.3f}",
                    f"{means.std(ddof=1) / np.sqrt(repeats):.3f}",
                    f"{low:.2f} to {high:.2f}",
                    f"{np.mean([auc for _, auc in found]):.3f}",
                )
            yield table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    console = Console(width=140)
    console.print(drawn_table(arguments.draws, arguments.seed))
    console.print(f"\nThresholds of models for a rate of {RATE:g}:")
    for table in trained_tables(arguments.repeats, arguments.seed):
        console.print(table)


if __name__ == "__main__":
    main()
