"""The families that a study file can name. Adding one is its module and a line here."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from features.did_you_mean import did_you_mean
from features.errors import OffkeyError
from features.frames.framing import Frames
from models.labels import Labels
from models.settings import FamilySettings

if TYPE_CHECKING:
    from models.anomaly_model import AnomalyModel

#: Family name → module with `Settings` and `Model`. Imported when named: torch takes seconds to load.
FAMILIES = {
    "vae": "models.vae",
    "ae": "models.ae",
    "cae": "models.cae",
    "made": "models.made",
    "group_made": "models.group_made",
    "classifier": "models.classifier",
    "stat": "models.stat",
    "fusion": "models.scoring.fusion",
}


def settings_of(name: str) -> type[FamilySettings]:
    """The settings class of a family. Raises OffkeyError for a name that does not exist."""
    settings: type[FamilySettings] = _module(name).Settings
    return settings


def settings_from(block: Any) -> Any:
    """The settings of a `model:` block by its family's schema. Raises ValueError if there is no such family."""
    if not isinstance(block, dict):
        return block
    if "family" not in block:
        raise ValueError("`family` is missing: it names the kind of model, for example `family: vae`")
    try:
        return settings_of(str(block["family"])).model_validate(block)
    except OffkeyError as error:
        raise ValueError(str(error)) from error


def build(settings: FamilySettings, limits: tuple[Frames, Frames], labels: Labels) -> AnomalyModel:
    """A fresh model for frames whose bins lie within limits, (bins,) twice; weights from torch's random state."""
    from models.layers.scale import Scale  # torch takes seconds to load

    model: AnomalyModel = _module(settings.family).Model(settings, Scale(limits), labels)
    return model


def _module(name: str) -> ModuleType:
    if name not in FAMILIES:
        near = did_you_mean(name, FAMILIES)
        raise OffkeyError(f"there is no model family {name!r}{near} (families: {', '.join(FAMILIES)})")
    return importlib.import_module(FAMILIES[name])
