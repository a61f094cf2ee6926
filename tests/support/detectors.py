"""Trains detectors on recordings without the checks of a preparation, and changes bundles that were written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from features.clips.corpus import Corpus
from search.detector.detector import Detector
from search.detector.digests import document_digest, file_digests
from search.detector.final_training import train_detector
from search.preparation.prepared import PreparedRecipe
from search.study.recipe import Recipe
from search.validation.views import validation_data_of


def detector_of(
    recipe: Recipe,
    corpus: Corpus,
    device: torch.device,
    *,
    on_epoch: Callable[[int, int], None] = lambda epoch, epochs: None,
) -> Detector:
    """Trains a recipe's detector on a corpus."""
    validation_data = validation_data_of(corpus, recipe.validation, recipe.corpus.train_on)
    return train_detector(PreparedRecipe(corpus, recipe.validation, validation_data, recipe), device, on_epoch=on_epoch)


def change_details(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the content of a bundle's detector.json as if it had been written so, with digests that fit all files."""
    path = bundle / "detector.json"
    document = json.loads(path.read_text())
    document["digests"] = file_digests(bundle)
    change(document)
    path.write_text(json.dumps(document | {"digest": document_digest(document)}))


def make_older(bundle: Path) -> None:
    """Takes from a bundle what earlier versions did not write: the scores, and all digests."""
    (bundle / "scores.json").unlink()
    path = bundle / "detector.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({key: document[key] for key in document.keys() - {"digests", "digest", "looks"}}))
