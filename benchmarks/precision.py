"""Does training in bfloat16 cost a family anything, and what does it save?

    python -m benchmarks.precision [--epochs 10] [--seeds 2]    # on sounds made here
    python -m benchmarks.precision ROOT                         # on a corpus with labelled test clips

Each family is trained with two or more seeds, each in float32 and in bfloat16, on one core. The AUC is that of all
labelled test clips, the mean over machine IDs; scores are float32 whatever the training was.

another seed : how far the AUCs of two seeds are apart in float32, the mean over pairs of seeds
off by       : how far an AUC in bfloat16 is from that of the same seed in float32, the mean over seeds
as near      : whether bfloat16 is no further off than another seed, which is the claim. Two seeds may agree by chance:
               a family that says no, or a difference with one sign throughout, needs `--seeds 10`
difference   : AUC in bfloat16 minus AUC in float32, the mean over seeds, and its standard error
time         : of the epochs in bfloat16 over those in float32, taken in turn

On a CPU without AVX512_BF16 or AMX-BF16 the times say what an explicit `training.precision: bfloat16` costs there.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.sides import machine_line, on_one_core
from features.clips.corpus import Corpus, read_corpus
from features.clips.synthetic_corpus import make_corpus
from models.precision import native_precision
from models.settings import ClosedPrecision
from search.evaluation.metrics import mean_auc
from search.evaluation.truth import Truth
from search.study.recipe import Recipe
from search.training.loop import Training

CPU = torch.device("cpu")
PRECISIONS: tuple[ClosedPrecision, ...] = ("float32", "bfloat16")

#: Windows are trained in batches of 1,000, crops of 64.
WINDOWS, CROPS = 1000, 64
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "vae": ({"family": "vae"}, WINDOWS),
    "ae": ({"family": "ae"}, WINDOWS),
    "cae": ({"family": "cae", "frames": 64}, CROPS),
    "made": ({"family": "made"}, WINDOWS),
    "group_made": ({"family": "group_made"}, WINDOWS),
    "classifier, small": ({"family": "classifier", "backbone": "small", "frames": 64}, CROPS),
    "classifier, small, knn": ({"family": "classifier", "backbone": "small", "frames": 64, "score": "knn"}, CROPS),
    "classifier, mobilenetv2_050": ({"family": "classifier", "backbone": "mobilenetv2_050", "frames": 64}, CROPS),
    "fusion of vae and ae": (
        {"family": "fusion", "members": {"one": {"model": {"family": "vae"}}, "other": {"model": {"family": "ae"}}}},
        WINDOWS,
    ),
}


def training_of(name: str, corpus: Corpus, precision: ClosedPrecision, *, seed: int, epochs: int) -> Training:
    model, batch_size = MODELS[name]
    training = {"batch_size": batch_size, "epochs": epochs, "precision": precision, "seed": seed, "threads": 1}
    recipe = Recipe.model_validate({"study": "precision", "model": model, "training": training})
    return Training(recipe, corpus, CPU)


def measured(
    name: str, corpus: Corpus, *, epochs: int, seeds: int
) -> tuple[dict[ClosedPrecision, list[float]], list[float]]:
    """AUCs by precision, one for each seed, and the ratio of the times of each epoch."""
    aucs: dict[ClosedPrecision, list[float]] = defaultdict(list)
    ratios = []
    for seed in range(seeds):
        trainings = {p: training_of(name, corpus, p, seed=seed, epochs=epochs) for p in PRECISIONS}
        for _ in range(epochs):
            seconds = {}
            for precision, training in trainings.items():
                start = time.perf_counter()
                training.run_epoch()
                seconds[precision] = time.perf_counter() - start
            ratios.append(seconds["bfloat16"] / seconds["float32"])
        for precision, training in trainings.items():
            truth = Truth.of(training.validation_clips)
            aucs[precision].append(mean_auc(training.validation_scores(), truth))
    return aucs, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, help="a corpus with labelled test clips")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=2, help="two at least")
    arguments = parser.parse_args()
    on_one_core()
    table = Table(
        "",
        "AUC, float32",
        "AUC, bfloat16",
        "another seed",
        "off by",
        "as near",
        "difference",
        "time",
        "range",
        title=f"Training in bfloat16 ({machine_line()}, {native_precision(CPU)} computed natively)",
        title_justify="left",
    )
    of_seeds, of_bfloat16 = [], []
    with tempfile.TemporaryDirectory() as name:
        root = arguments.root
        if root is None:
            root = Path(name, "corpus")
            make_corpus(root)
        else:
            root = root.resolve()
        os.environ["OFFKEY_CACHE"] = f"{name}/cache"
        corpus = read_corpus(root)
        for model in MODELS:
            aucs, ratios = measured(model, corpus, epochs=arguments.epochs, seeds=arguments.seeds)
            differences = [a - b for a, b in zip(aucs["bfloat16"], aucs["float32"], strict=True)]
            error = statistics.stdev(differences) / len(differences) ** 0.5
            of_seeds.append(statistics.mean(abs(a - b) for a, b in itertools.combinations(aucs["float32"], 2)))
            of_bfloat16.append(statistics.mean(map(abs, differences)))
            table.add_row(
                model,
                *(f"{statistics.mean(aucs[precision]):.3f}" for precision in PRECISIONS),
                f"{of_seeds[-1]:.4f}",
                f"{of_bfloat16[-1]:.4f}",
                "yes" if of_bfloat16[-1] <= of_seeds[-1] else "no",
                f"{statistics.mean(differences):+.3f} ± {error:.3f}",
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f}–{max(ratios):.2f}",
            )
    Console(width=140).print(table)
    print(
        f"Mean over the families: another seed moves an AUC by {statistics.mean(of_seeds):.4f}, bfloat16 by "
        f"{statistics.mean(of_bfloat16):.4f}."
    )


if __name__ == "__main__":
    main()
