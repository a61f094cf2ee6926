"""A trained detector as a folder that needs nothing else.

recipe.yaml           what it is: `offkey train recipe.yaml` makes it again
weights.safetensors   the model's arrays
detector.json         machine IDs, thresholds by machine/ID, versions, the corpus's fingerprint
metrics.json          what was measured
README.md             the model card
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from features.errors import OffkeyError
from models.labels import Labels
from models.member import Member
from models.scorer import Scorer, Single, scorer_of
from search.errors import BundleError
from search.evaluation import Figures
from search.final import Detector
from search.recipe import Recipe
from search.study_file import load_study, to_yaml

_FORMAT = 3


@dataclass(frozen=True)
class Bundle:
    """A loaded detector."""

    recipe: Recipe
    scorer: Scorer
    labels: Labels
    thresholds: dict[str, float]  # by machine/ID


def metrics_of(detector: Detector) -> dict[str, Any]:
    """The figures of a detector, as `offkey train --json` prints them below `bundle`."""
    validation, test = detector.validation, detector.test
    return {
        "validation": {"auc": validation.auc, "interval": list(validation.interval), "per_id": _per_id(validation)},
        "test": None
        if test is None
        else {"auc": test.auc, "pauc": test.pauc, "interval": list(test.interval), "per_id": _per_id(test)},
    }


def require_free(folder: Path) -> None:
    """Raises BundleError if something stands where the bundle is to go: nothing is ever overwritten."""
    if folder.exists():
        raise BundleError(
            f"{folder} exists already, and is left as it is. Choose another folder with -o, or remove it."
        )


def save_bundle(detector: Detector, folder: Path) -> None:
    """Writes the bundle, whole or not at all. Raises BundleError if it cannot be written."""
    require_free(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise BundleError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        partial.chmod(0o755)
        save_file(
            {name: array.contiguous() for name, array in detector.scorer.state_dict().items()},
            partial / "weights.safetensors",
        )
        (partial / "recipe.yaml").write_text(to_yaml(detector.recipe.tree()))
        details = {
            "format": _FORMAT,
            "labels": asdict(detector.labels),
            "thresholds": dict(detector.thresholds),
            "threshold_clips": dict(detector.threshold_clips),
            "corpus_fingerprint": detector.fingerprint,
            "versions": {"offkey": version("offkey"), "torch": torch.__version__},
        }
        (partial / "detector.json").write_text(json.dumps(details, indent=1))
        (partial / "metrics.json").write_text(json.dumps(metrics_of(detector), indent=1))
        (partial / "README.md").write_text(_model_card(detector))
        os.rename(partial, folder)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_bundle(folder: Path) -> Bundle:
    """Raises BundleError if the folder is not a whole bundle of a format known here."""
    try:
        details = json.loads((folder / "detector.json").read_text())
        if details["format"] != _FORMAT:
            raise BundleError(f"{folder}: a bundle of format {details['format']}; this Offkey reads {_FORMAT}")
        recipe = load_study(folder / "recipe.yaml").first_recipe()
        known = details["labels"]
        labels = Labels(ids=tuple(known["ids"]), attributes=tuple((name, text) for name, text in known["attributes"]))
        scorer = scorer_of(recipe.member, labels, _unlearnt)
        scorer.load_state_dict(load_file(folder / "weights.safetensors"))
        return Bundle(recipe=recipe, scorer=scorer.eval(), labels=labels, thresholds=details["thresholds"])
    except BundleError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError, OffkeyError) as error:
        raise BundleError(f"{folder} is not a bundle, or not a whole one: {error}") from error


def _unlearnt(member: Member, labels: Labels) -> Single:
    """A model whose weights are to be loaded, limits of its bins included."""
    return Single(member, labels, member.features.limits)


def _per_id(figures: Figures) -> dict[str, Any]:
    return {name: asdict(of_id) for name, of_id in figures.per_id.items()}


def _model_card(detector: Detector) -> str:
    recipe, test = detector.recipe, detector.test
    origin = f"trial {recipe.from_.trial} of study `{recipe.from_.study}`" if recipe.from_ else "a recipe of its own"
    test_line = (
        "No held-out figure: the labelled clips did not suffice."
        if test is None
        else f"Held-out test AUC {test.auc:.3f} (95 % interval {test.interval[0]:.3f} to {test.interval[1]:.3f}), "
        "on clips that no search has seen."
    )
    rate = recipe.scoring.false_alarm_rate
    rows = "\n".join(
        f"| {name} | {t:.6g} | {detector.threshold_clips[name]} |" for name, t in detector.thresholds.items()
    )
    left_out = "".join(f"\n- {outlier.clip.name}: {outlier.reason}" for outlier in detector.dropped)
    left_out = f"\nTraining clips that cleaning left out:\n{left_out}\n" if left_out else ""
    return f"""# {recipe.study}

A detector of anomalous machine sound ({recipe.model.family}), from {origin}.

{test_line}
Validation AUC {detector.validation.auc:.3f}: it steered the search, so it flatters.

Score clips with `offkey score BUNDLE PATH…`, this folder as BUNDLE. A higher score is more anomalous; a clip above
its machine ID's threshold is called an anomaly. Thresholds aim at a false-alarm rate of {rate:g}, and were
set on normal clips withheld from training:

| machine ID | threshold | clips |
|---|---|---|
{rows}
{left_out}"""
