"""A worker with instant trials, for measurements and tests of the coordination. It does not import torch.

    python -m tests.support.quick STUDY [--lease SECONDS] [--pause SECONDS]

works on a stored study ($OFFKEY_STORAGE) until its budget is met; `--pause` is how long each epoch takes.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, Literal

import numpy as np

from features.clips.clip import Clip
from features.clips.corpus import Corpus
from features.frames.framing import Frames
from models.families import FAMILIES
from models.scoring.combination import Scales
from models.scoring.scores import Scores
from models.settings import WindowSettings
from search.evaluation.metrics import Metric
from search.evaluation.official import Year
from search.evaluation.truth import Truth
from search.storage.lease_rules import LEASE_SECONDS
from search.study.recipe import Recipe
from search.training.protocols import VariantScores
from search.validation import views
from search.validation.split import labelled_test_clips
from search.workers import trial_work
from search.workers.draining import drain_on_signals, leave_in_time
from search.workers.worker import Worker, join


class Settings(WindowSettings):
    """The settings of a family without a model, which needs no torch."""

    family: Literal["quick"] = "quick"
    context: int = 1
    width: int = 64
    depth: int = 4


FAMILIES["quick"] = "tests.support.quick"


#: The blocks of a study of this family: the processes of its workers import no torch, which takes seconds.
QUICK: dict[str, Any] = {
    "model": {"family": "quick", "width": {"low": 8, "high": 4096}, "depth": {"low": 2, "high": 64}},
    "baseline": {"width": 16, "depth": 4},
}


def quick_study(root: str, *, name: str, **blocks: Any) -> dict[str, Any]:
    """The tree of a study with three open settings; `blocks` replace its blocks."""
    return {
        "study": name,
        "corpus": {"root": root},
        "model": QUICK["model"],
        "training": {"threads": 1, "precision": "float32", "learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}},
        **blocks,
    }


class QuickTraining:
    """A random walk in place of a training: reproducible, resumable, and instant."""

    batches = 4  # in an epoch
    pause = 0.0  # seconds, of a batch
    frame_seconds = 0.032
    unit = "dB"

    def __init__(self, recipe: Recipe, corpus: Corpus, device: str) -> None:
        assert recipe.training.seed is not None
        self.epoch = 0
        self.validation_clips: Sequence[Clip] = labelled_test_clips(corpus)
        self.parameters = recipe.model.h_dim if hasattr(recipe.model, "h_dim") else 1
        self._seed = recipe.training.seed
        self._scores = np.zeros(len(self.validation_clips))

    @property
    def steps(self) -> int:
        return self.epoch

    @property
    def step(self) -> int | None:
        return self.steps or None

    def latency_ms(self) -> float:
        return 1.0

    def run_epoch(self, before_batch: Callable[[], None]) -> None:
        for _ in range(self.batches):
            before_batch()
            time.sleep(self.pause)
        self._scores += np.random.default_rng([self._seed, self.epoch]).standard_normal(len(self._scores))
        self.epoch += 1

    def validation_scores(self) -> Scores:
        return self._scores.copy()

    def scores_of_variants(self, recipes: Sequence[Recipe]) -> list[VariantScores]:
        return [self._scores.copy() for _ in recipes]

    def scales_of(self, recipe: Recipe) -> Scales:
        return dict.fromkeys({clip.id_name for clip in self.validation_clips}, (0.0, 1.0))

    def frames_of(self, clip: Clip) -> Frames:
        return np.zeros((1, 1), dtype=np.float32)

    def reconstruction_of(self, clip: Clip) -> Frames | None:
        return None

    def save(self, file: BinaryIO) -> None:
        file.write(json.dumps({"epoch": self.epoch, "scores": self._scores.tolist()}).encode())

    def resume(self, file: BinaryIO) -> None:
        state = json.loads(file.read())
        self.epoch, self._scores = state["epoch"], np.array(state["scores"])


def quicken(worker: Worker) -> None:
    """Lets a worker train nothing and draw nothing."""
    worker.train, worker.show = QuickTraining, None


def work(url: str, name: str, *, lease: float = LEASE_SECONDS, pause: float = 0.0) -> None:
    """Works on a stored study until its budget is met; `pause` is how long each epoch takes (seconds)."""
    stop = threading.Event()
    drain_on_signals(stop)
    worker = join(url, name, lease=lease, stop=stop)
    leave_in_time(stop, worker.release)
    QuickTraining.pause = pause / QuickTraining.batches
    quicken(worker)
    worker.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study")
    parser.add_argument("--lease", type=float, default=LEASE_SECONDS)
    parser.add_argument("--pause", type=float, default=0.0)
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(process)d %(message)s", level=logging.INFO)
    work(os.environ["OFFKEY_STORAGE"], arguments.study, lease=arguments.lease, pause=arguments.pause)


def mean_score(metric: Metric, scores: Scores, truth: Truth, *, year: Year | None = None) -> float:
    """Replaces an AUC, so that scikit-learn's time and memory are not measured with the coordination's."""
    return float(scores.mean())


def without_aucs() -> None:
    """Replaces the AUCs of this process's workers by mean scores."""
    views.metric_of = mean_score  # type: ignore[attr-defined]
    trial_work.id_aucs = lambda scores, truth: {"all": float(scores.mean())}  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
