"""What workers on a study must agree on: its search space, its data, and its versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import optuna

from features.clips.corpus import Corpus
from features.frames.feature_settings import FeatureSettings
from features.settings import Settings
from search.study.branches import features_of
from search.study.computation import COMPUTATION
from search.study.study import Study

Identity = Mapping[str, Any]


#: Settings in which workers may differ.
_NOT_IDENTITY = (
    ("corpus", "root"),
    ("search", "trials"),
    ("search", "hours"),
    ("search", "stop"),
    ("search", "stall_minutes"),
    ("training", "threads"),
)


def identity_of(study: Study, corpus: Corpus) -> Identity:
    """Return what workers on this study and corpus must agree on."""
    tree = _with_defaults(study)
    if study.first_in_file is not None:  # what other studies hold may change: their names identify the portfolio
        tree["search"] = {**tree["search"], "first": study.first_in_file}
    return {**surroundings(corpus), "study": _without(tree)}


def surroundings(corpus: Corpus) -> Identity:
    """Return the part of an identity that is not in the study file: data and versions."""
    return {
        "versions": {
            "offkey": version("offkey"),
            "computation": COMPUTATION,
            "optuna": optuna.__version__,
            "librosa": version("librosa"),
        },
        "data": {"clips": len(corpus.clips), "fingerprint": corpus.fingerprint[:16]},
    }


def _with_defaults(study: Study) -> dict[str, Any]:
    """Return the study's tree with its defaults: a study file that writes out a default is the same study.

    Settings that recipes do not name at their default (`NEVER_IDLE`) are left out there, too.
    """
    tree = study.tree
    blocks = {key: default for key, default in study.first_recipe().tree().items() if isinstance(default, dict)}
    filled = {key: {**default, **tree.get(key, {})} for key, default in blocks.items() if key != "model"}
    first = study.first_recipe()
    filled["scoring"] = _without_defaults(filled["scoring"], first.scoring)
    if isinstance(tree["model"], dict):
        filled["model"] = _without_defaults({**blocks["model"], **tree["model"]}, first.model)
    elif any(features_of(tree, branch) for branch in range(len(tree["model"]))):
        # The first recipe has the features of its branch, not the study's.
        filled["features"] = {**dict(FeatureSettings()), **(tree.get("features") or {})}
    return {**tree, **filled}


def _without_defaults(block: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return a block without the settings of `NEVER_IDLE` that have their default."""
    defaults = {name: type(settings).model_fields[name].default for name in settings.NEVER_IDLE}
    return {key: value for key, value in block.items() if key not in defaults or value != defaults[key]}


def _without(tree: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(json.dumps(tree))
    for section, key in _NOT_IDENTITY:
        kept.get(section, {}).pop(key, None)
    return kept
