"""The branches of a study: the blocks of a list under `model:`.

    model:
      - {family: vae, z_dim: 8}
      - family: stat
        name: whole_spectrum                 # the branch's name; its family, if left out
        features: {kind: clip_spectrum}      # replace settings of the study's `features:` in this branch

The parameter `family` chooses a branch by its name. In the closed tree of a branch both keys are gone: the features are
merged over the study's, and the result is an ordinary recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from features.frames.feature_settings import KINDS, SHARED, FeatureSettings
from features.frames.feature_settings import settings_of as settings_of_kind
from features.settings import Settings
from models.member import NAME

#: The keys of a branch beside the settings of its family.
KEYS = ("name", "features")


class BranchSettings(Settings):
    """What a family of a list has beside its own settings."""

    name: str | None = Field(
        None,
        pattern=f"^{NAME}$",
        description="the value of the parameter `family`, where a family stands twice; the family if left out",
    )
    features: FeatureSettings | None = Field(
        None, description=f"settings that replace the study's, other than {', '.join(SHARED)}"
    )


def names_of(tree: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the name of each branch; of a single family, its name alone."""
    blocks = tree["model"] if isinstance(tree.get("model"), list) else [tree.get("model")]
    return tuple(
        str(block.get("name") or block.get("family")) if isinstance(block, Mapping) else "" for block in blocks
    )


def names_in_words(tree: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the name of each branch, followed by its family if that is another name."""
    blocks = tree["model"] if isinstance(tree["model"], list) else [tree["model"]]
    return tuple(
        name if name == block["family"] else f"{name} ({block['family']})"
        for name, block in zip(names_of(tree), blocks, strict=True)
    )


def without_family(values: Mapping[str, Any], family: str | None) -> dict[str, Any]:
    """Return values of parameters by shorter names: without the family that precedes some, unless two were the same."""
    names = {name: name.removeprefix(f"{family}.") for name in values}
    return {name if short != name and short in values else short: values[name] for name, short in names.items()}


def features_of(tree: Mapping[str, Any], branch: int) -> Mapping[str, Any]:
    """Return the features that a branch has of its own."""
    block = tree["model"][branch] if isinstance(tree.get("model"), list) else None
    own = block.get("features") if isinstance(block, Mapping) else None
    return own if isinstance(own, Mapping) else {}


def replaces(tree: Mapping[str, Any], branch: int, key: str) -> bool:
    """Whether a branch does not read a setting of the study's features: it has its own, or a kind that has no use."""
    own = features_of(tree, branch)
    return key in own or ("kind" in own and not _may_use(own["kind"], tree["model"][branch], key))


def close_branch(tree: dict[str, Any], branch: int) -> None:
    """Put one branch in place of the list, in a tree with values for all settings that the branch reads."""
    if not isinstance(tree.get("model"), list):
        return
    own, shared = features_of(tree, branch), tree.get("features") or {}
    if own and isinstance(shared, Mapping):
        # Without what the branch does not read: a recipe that is written and read again would not have it either.
        tree["features"] = {key: value for key, value in shared.items() if not replaces(tree, branch, key)} | dict(own)
    block = tree["model"][branch]
    is_block = isinstance(block, Mapping)
    tree["model"] = {key: value for key, value in block.items() if key not in KEYS} if is_block else block


def _may_use(kind: Any, block: Mapping[str, Any], key: str) -> bool:
    """Whether features of this kind may use a setting; True unless the kind is closed, exists, and is for no member."""
    parts = kind if isinstance(kind, list) else kind.split("+") if isinstance(kind, str) else []
    if "members" in block or not parts or not all(part in KINDS for part in parts):
        return True
    return key in {"kind", "normalize"} or key in settings_of_kind("+".join(parts))
