"""The tree of scorers that a recipe asks for."""

from __future__ import annotations

from models.labels import Labels
from models.member import Member
from models.scoring.calibration import Calibration
from models.scoring.fusion import Fusion
from models.scoring.fusion import Settings as FusionSettings
from models.scoring.per_machine_type import PerMachineType
from models.scoring.scorer import Calibrated, Make, PerId, Scorer


def scorer_of(member: Member, labels: Labels, make: Make) -> Scorer:
    """Calibrated if the recipe says so, around an ensemble, around models of each machine ID, or around one model.

    Several of these, around the same networks, if machine types are scored in different ways.
    """
    scorer: Scorer
    if member.machine_types is not None:
        return _per_machine_type(member, labels, make)
    if isinstance(member.model, FusionSettings):
        scorers = [scorer_of(each, labels, make) for each in member.model.members.values()]
        scorer = Fusion(member.model, labels, scorers)
    elif member.model.per_id:
        scorer = PerId(member, labels, make)
    else:
        scorer = make(member, labels)
    kind = member.scoring.calibration
    return scorer if kind == "none" else Calibrated(scorer, labels, Calibration(kind))


def sharing(scorer: Scorer, member: Member, labels: Labels) -> Scorer:
    """The scorer of a member that differs in settings of scoring alone, around the networks of another."""
    networks = iter(list(scorer.singles()))
    return scorer_of(member, labels, lambda member, labels: next(networks).under(member))


def _per_machine_type(member: Member, labels: Labels, make: Make) -> Scorer:
    """Machine types that are scored alike share their detector."""
    of_types = member.of_machine_types
    distinct: list[Member] = []
    for each in of_types.values():
        if each not in distinct:
            distinct.append(each)
    first = scorer_of(distinct[0], labels, make)
    scorers = [first, *(sharing(first, other, labels) for other in distinct[1:])]
    return PerMachineType(
        member, labels, scorers, {machine: distinct.index(each) for machine, each in of_types.items()}
    )
