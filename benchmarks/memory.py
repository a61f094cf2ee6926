"""Peak memory of a training run, mapped file pages left out, on a small and on a ten times larger corpus."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.sides import machine_line, write_noise

SIZES, ROUNDS = (300, 3000), 3


def anonymous_megabytes() -> float:
    """What this process holds in memory that no file backs."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem")) / 1024


@contextmanager
def watched() -> Iterator[list[float]]:
    """The peak of those megabytes, a list of one number that grows."""
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], anonymous_megabytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def train(root: str) -> None:
    """Reads a corpus, computes or maps its frames, trains one epoch, validates; prints the peak in MB."""
    from features.clips.corpus import read_corpus
    from search.study.recipe import Recipe
    from search.training.loop import Training
    from search.validation.split import blind
    from tests.support.training import excerpts_of

    recipe = Recipe.model_validate(
        {
            "study": "memory",
            "model": {"family": "vae", "h_dim": 64},
            "training": {"batch_size": 1000, "seed": 0, "threads": 2},
        }
    )
    with watched() as peak:
        training = Training(recipe, blind(read_corpus(Path(root)), recipe.validation), torch.device("cpu"))
        training.run_epoch()
        training.validation_scores()
    print(json.dumps({"peak": peak[0], "windows": len(excerpts_of(training, training.clips.train))}))


def main() -> None:
    table = Table("clips", "training windows", "peak MB, median", "range", title=f"Peak memory ({machine_line()})")
    medians = []
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            root = Path(folder, str(size))
            write_noise(root, size)
            runs = []
            for number in range(ROUNDS):
                # A cache of its own: each run computes the frames, trains and validates.
                surroundings = os.environ | {"OFFKEY_CACHE": f"{folder}/cache-{size}-{number}"}
                command = [sys.executable, "-m", "benchmarks.memory", str(root)]
                ended = subprocess.run(command, env=surroundings, check=True, capture_output=True, text=True)
                runs.append(json.loads(ended.stdout))
            peaks = [run["peak"] for run in runs]
            medians.append(statistics.median(peaks))
            table.add_row(
                str(size), str(runs[0]["windows"]), f"{medians[-1]:.0f}", f"{min(peaks):.0f}–{max(peaks):.0f}"
            )
    Console(width=100).print(table)
    print(f"Growth from {SIZES[0]} to {SIZES[1]} clips: {medians[1] - medians[0]:.1f} MB")


if __name__ == "__main__":
    train(sys.argv[1]) if len(sys.argv) > 1 else main()
