"""The `search:` block of a study file: budget, end, sampler, pruner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from features.settings import Settings

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial


#: Minutes without a sign of life after which a trial hangs, if its study says nothing: longer than a batch takes on a
#: slow CPU, or reading a large study from a slow server.
STALL_MINUTES = 20.0


class SearchSettings(Settings):
    """The budget, the sampler and the pruner."""

    trials: int = Field(100, ge=1, description="trials in all, over all workers")
    hours: float | None = Field(
        None,
        gt=0,
        description="wall-clock hours with at least one worker; no trial is begun that would probably outlast them",
    )
    trial_minutes: float | None = Field(
        None, gt=0, description="a trial that has been worked on for longer fails, at its next batch or soon after"
    )
    stall_minutes: float | None = Field(
        None,
        gt=0,
        description="a trial that gives no sign of life for so long, such as a batch, hangs: another worker tries it; "
        "six times as long in steps that are known to be slow; joining a study never lowers it; "
        "left out: as the stored study has it, 20 in a new one",
    )
    stop: Literal["told_apart", "never"] | None = Field(
        None,
        description="told_apart: the study ends itself once no trial that is left can be expected to be told from the "
        "best by these validation clips, after half of its trials at the earliest; left out: "
        "as the stored study has it, never in a new one",
    )
    sampler: Literal["tpe", "random", "grid"] = Field("tpe", description="grid: each combination of choices once")
    pruner: Literal["hyperband", "median", "noise", "wilcoxon", "none"] = Field(
        "hyperband",
        description="noise: stops only trials that are behind by more than chance explains with so few clips; "
        "wilcoxon: compares folds in pairs, and needs more epochs than median; always none with several objectives",
    )
    seed: int = Field(0, ge=0)
    first: list[dict[str, Any]] | None = Field(
        None,
        description="settings that are tried after the baseline, cheapest first: each entry gives open settings "
        "by name, or names finished studies and recipes ({from: [STUDY, recipe.yaml], top: 5})",
    )
    scoring_for: Literal["each_machine_type"] | None = Field(
        None,
        description="each_machine_type: settings that a trial closes after its training are closed for each machine "
        "type, by its own clips and the study's evidence for it; if left out, once for all machine types",
    )
    duplicates: Literal["fresh", "repeat"] = Field(
        "fresh",
        description="settings that another trial has had are replaced by new ones, or repeated with another seed",
    )
    constraints: ConstraintSettings | None = Field(
        None, description="limits for the chosen trial: see `offkey settings constraints`"
    )

    @property
    def longest_silence(self) -> float:
        """Minutes without a sign of life after which a trial hangs."""
        return STALL_MINUTES if self.stall_minutes is None else self.stall_minutes


class ConstraintSettings(Settings):
    """The limits that a trial must keep to be chosen."""

    max_parameters: int | None = Field(None, ge=0, description="limit of the learnt numbers of all networks")
    max_latency_ms: float | None = Field(
        None, gt=0, description="limit of the milliseconds to score one clip, with reading its file"
    )
    min_worst_id: float | None = Field(None, ge=0, le=1, description="limit of the lowest AUC of a machine ID")


def keeps_to_limits(trial: FrozenTrial | Trial) -> bool:
    """Whether a trial keeps to the study's constraints."""
    return all(excess <= 0 for excess in trial.constraints.values())
