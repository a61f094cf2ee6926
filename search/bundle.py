"""A trained detector as a folder that needs nothing else.

recipe.yaml           what it is: `offkey train recipe.yaml` makes it again
weights.safetensors   the model's arrays
detector.json         machine IDs, thresholds by machine/ID and the false-alarm rate that they aim at, versions, the
                      corpus's fingerprint
metrics.json          what was measured
README.md             the model card

No file is a pickle: what scikit-learn has learnt is arrays beside the networks'. Other versions than those that wrote a
bundle may score a little differently: loading says so in the log.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
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
from models.scorer import Scorer, Single
from models.scorer_tree import scorer_of
from search.caveats import SeedSpread, Spread
from search.errors import BundleError
from search.evaluation import Figures
from search.final import Detector
from search.model_card import model_card
from search.recipe import Recipe
from search.stored_study import code_digest
from search.study_file import load_study, to_yaml

_log = logging.getLogger("offkey.bundle")

#: Of what is in the files: a bundle of another one cannot be read. Keys that are only added leave it as it is.
_FORMAT = 3

#: What was installed and may change a score in its last digits, or more.
_PACKAGES = ("offkey", "torch", "timm", "numpy", "scipy", "librosa", "scikit-learn")


@dataclass(frozen=True)
class Bundle:
    """A loaded detector."""

    recipe: Recipe
    scorer: Scorer
    labels: Labels
    thresholds: dict[str, float]  # by machine/ID


def metrics_of(detector: Detector) -> dict[str, Any]:
    """The figures of a detector, as `offkey train --json` prints them below `bundle`."""
    optimism = detector.optimism
    return {
        "validation": _metrics(detector.validation),
        "test": None if detector.test is None else _metrics(detector.test),
        "metric": {
            "name": detector.recipe.validation.objectives[0],
            "validation": detector.value,
            "test": detector.test_value,
        },
        "optimism": None
        if optimism is None
        else {"difference": optimism.difference, "interval": list(optimism.interval)},
        "test_looks": detector.looks.count,
        "test_recipes": detector.looks.recipes,
        "seeds": _seeds(detector.seeds),
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
        (partial / "weights.safetensors").chmod(0o644)  # as its neighbours: safetensors keeps it to its owner
        (partial / "recipe.yaml").write_text(to_yaml(detector.recipe.tree()))
        details = {
            "format": _FORMAT,
            "labels": asdict(detector.labels),
            "thresholds": dict(detector.thresholds),
            "threshold_clips": dict(detector.threshold_clips),
            "false_alarm_rate": detector.recipe.scoring.false_alarm_rate,
            "corpus_fingerprint": detector.fingerprint,
            "versions": _versions(),
        }
        (partial / "detector.json").write_text(json.dumps(details, indent=1))
        (partial / "metrics.json").write_text(json.dumps(metrics_of(detector), indent=1))
        (partial / "README.md").write_text(model_card(detector))
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
        _warn_of_other_versions(folder, details.get("versions", {}))
        recipe = load_study(folder / "recipe.yaml").first_recipe()
        known = details["labels"]
        labels = Labels(ids=tuple(known["ids"]), attributes=tuple((name, text) for name, text in known["attributes"]))
        scorer = scorer_of(recipe.member, labels, _unlearnt)
        scorer.load_state_dict(load_file(folder / "weights.safetensors"))
        return Bundle(recipe=recipe, scorer=scorer.eval(), labels=labels, thresholds=details["thresholds"])
    except BundleError:
        raise
    except (
        OSError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
        SafetensorError,
        OffkeyError,
    ) as error:
        raise BundleError(f"{folder} is not a bundle, or not a whole one: {error}") from error


def _unlearnt(member: Member, labels: Labels) -> Single:
    """A model whose weights are to be loaded, limits of its bins included."""
    unlearnt = member.model_copy(update={"model": member.model.to_be_loaded})
    return Single(unlearnt, labels, member.features.limits)


def _versions() -> dict[str, str]:
    """What a score may depend on."""
    return {
        **{package: version(package) for package in _PACKAGES},
        "torch": torch.__version__,  # with what it was built for
        "code": code_digest(),
        "python": platform.python_version(),
    }


def _warn_of_other_versions(folder: Path, written_by: Mapping[str, str]) -> None:
    """Of what a bundle says at all; one version for another kind of device is no other version."""
    here = _versions()
    differing = [
        f"{name} {then} (here {here[name]})"
        for name, then in written_by.items()
        if name in here and name != "python" and then.partition("+")[0] != here[name].partition("+")[0]
    ]
    if differing:
        _log.warning("%s was written with %s: its scores may differ a little", folder, ", ".join(differing))


def _seeds(spreads: Mapping[str, SeedSpread]) -> dict[str, Any] | None:
    """The spread over seeds; of several recipes, of each."""
    by_recipe = {
        name: {
            "count": len(spread.seeds),
            "seeds": list(spread.seeds),
            "validation": _spread(spread.validation),
            "test": None if spread.test is None else _spread(spread.test),
        }
        for name, spread in spreads.items()
    }
    if len(by_recipe) > 1:
        return {"recipes": by_recipe}
    return next(iter(by_recipe.values()), None)


def _spread(spread: Spread) -> dict[str, Any]:
    return {
        "auc": list(spread.aucs),
        "mean": spread.mean,
        "sd": spread.deviation,
        "range": [min(spread.aucs), max(spread.aucs)],
    }


def _metrics(figures: Figures) -> dict[str, Any]:
    return {
        "auc": figures.auc,
        "interval": list(figures.interval),
        "pauc": figures.pauc,
        "pooled_auc": figures.pooled,
        "per_id": {name: asdict(of_id) for name, of_id in figures.per_id.items()},
    }
