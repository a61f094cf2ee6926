"""Every family's training beside the same network's steps on one batch that is there, and how fast it scores.

One core, clips of 10 s at 16 kHz, 128 mel bands. Scoring is from wav files to clip scores, features included, as a
multiple of the time that the clips last.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.sides import in_turn, machine_line, on_one_core, write_noise
from features.clips.corpus import read_corpus
from features.windows.excerpts import Batch
from models.families import FAMILIES
from search.detector.bundle import load_bundle, save_bundle
from search.detector.final_training import train_detector
from search.detector.scored_clips import score_clips
from search.preparation.prepared import prepare_recipe
from search.study.recipe import Recipe
from search.training.loop import Training
from search.validation.split import blind
from tests.support.training import excerpts_of, models_of

CLIPS, ROUNDS, SCORED, SECONDS = 60, 5, 20, 10.0
CPU = torch.device("cpu")

#: What is measured of each family; all else is as the family has it.
MODELS: dict[str, dict[str, Any]] = {
    "vae": {"family": "vae"},
    "ae": {"family": "ae"},
    "cae, crops of 128 × 128": {"family": "cae", "frames": 128},
    "made": {"family": "made"},
    "group_made": {"family": "group_made"},
    "classifier, small": {"family": "classifier", "backbone": "small", "frames": 64},
    "classifier, mobilenetv2_050": {"family": "classifier", "backbone": "mobilenetv2_050", "frames": 64},
    "stat": {"family": "stat"},
    "fusion of vae and stat": {
        "family": "fusion",
        "members": {"windows": {"model": {"family": "vae"}}, "levels": {"model": {"family": "stat"}}},
    },
}


def recipe_of(model: dict[str, Any], *, epochs: int) -> Recipe:
    batch_size = 64 if FAMILIES[model["family"]] in ("models.cae", "models.classifier") else 1000
    # In float32, as the steps on one batch.
    training = {"batch_size": batch_size, "epochs": epochs, "precision": "float32", "seed": 0, "threads": 1}
    return Recipe.model_validate({"study": "speed", "model": model, "training": training})


def steps_on_one_batch(training: Training, batch_size: int) -> Any:
    """The epoch's steps of the network, each on the first so many excerpts of one batch."""
    model = models_of(training)[0]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    excerpts = excerpts_of(training, training.clips.train)
    sizes = [len(batch.clips) for batch in excerpts.shuffled(batch_size, torch.Generator().manual_seed(0))]
    there = next(iter(excerpts.shuffled(max(sizes), torch.Generator().manual_seed(0))))

    def first(size: int) -> Batch:
        parts = (None if part is None else part[:size] for part in (there.ids, there.attributes))
        return Batch(there.inputs[:size], there.clips[:size], *parts)

    batches = {size: first(size) for size in set(sizes)}

    def run() -> None:
        model.train()
        for size in sizes:
            loss = model.loss(batches[size])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return run


def main() -> None:
    on_one_core()
    table = Table(
        "",
        "parameters",
        "clips/s in training",
        "epoch / its steps on one batch",
        "scoring, times real time",
        title=f"Families, one core ({machine_line()})",
        title_justify="left",
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["OFFKEY_CACHE"] = str(folder / "cache")
        paths = write_noise(folder / "corpus", CLIPS, seconds=SECONDS)
        corpus = read_corpus(folder / "corpus")
        for label, model in MODELS.items():
            recipe = recipe_of(model, epochs=1)
            training = Training(recipe_of(model, epochs=2 * ROUNDS), blind(corpus, recipe.validation), CPU)
            speed, ratio = "", ""
            if recipe.model.is_trained and not recipe.ensemble:
                sides = {
                    "epoch": training.run_epoch,
                    "steps": steps_on_one_batch(training, recipe.training.batch_size),
                }
                seconds = in_turn(sides, rounds=ROUNDS)
                ratios = [epoch / steps for epoch, steps in zip(*seconds.values(), strict=True)]
                speed = f"{len(training.clips.train) / statistics.median(seconds['epoch']):.3g}"
                ratio = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})"
            prepared = prepare_recipe(recipe, default_root=str(corpus.root), tell=print)
            save_bundle(train_detector(prepared, CPU), folder / "bundle")
            bundle = load_bundle(folder / "bundle")
            passes = []
            for _ in range(ROUNDS):
                start = time.perf_counter()
                assert all(clip.score is not None for clip in score_clips(bundle, paths[:SCORED], CPU))
                passes.append(SCORED * SECONDS / (time.perf_counter() - start))
            parameters = sum(array.numel() for array in training.scorer.parameters())
            spread = f"{statistics.median(passes):.0f} ({min(passes):.0f}–{max(passes):.0f})"
            table.add_row(label, f"{parameters:,}", speed, ratio, spread)
            (folder / "bundle").rename(folder / f"bundle-{len(table.rows)}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
