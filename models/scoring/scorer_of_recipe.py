"""The tree of scorers that a recipe asks for."""

from __future__ import annotations

from models.labels import Labels
from models.member import Member
from models.scoring.calibration import Calibration
from models.scoring.fusion import Fusion
from models.scoring.fusion import Settings as FusionSettings
from models.scoring.scorer import Calibrated, Make, PerId, Scorer


def scorer_of(member: Member, labels: Labels, make: Make) -> Scorer:
    """Calibrated if the recipe says so, around an ensemble, around models of each machine ID, or around one model."""
    scorer: Scorer
    if isinstance(member.model, FusionSettings):
        scorers = [scorer_of(each, labels, make) for each in member.model.members.values()]
        scorer = Fusion(member.model, labels, scorers)
    elif member.model.per_id:
        scorer = PerId(member, labels, make)
    else:
        scorer = make(member, labels)
    kind = member.scoring.calibration
    return scorer if kind == "none" else Calibrated(scorer, labels, Calibration(kind))
