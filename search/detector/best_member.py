"""The best member of an ensemble of a study's trials, measured alone: whether the ensemble was worth its members.

Both are measured on the same clips. The member's AUC on the test clips is a test evaluation of its own: whoever keeps
the better of the two has chosen by these clips.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.scoring.scores import Scores
from search.evaluation.bootstrap import Bootstrap
from search.evaluation.confidence import interval_of, interval_of_difference
from search.evaluation.interval import Interval
from search.evaluation.metrics import mean_auc
from search.evaluation.truth import Truth
from search.results.gain import Gain
from search.study.recipe import Recipe


@dataclass(frozen=True)
class MemberOnTest:
    """A member's AUC on the test clips, and what the ensemble gains over it."""

    auc: float
    interval: Interval | None  # None where there are too few clips
    gain: Gain  # the ensemble's AUC minus the member's


@dataclass(frozen=True)
class BestMember:
    """The AUCs of the best member alone."""

    name: str
    validation: float
    test: MemberOnTest | None  # None where no ID has both labels among the test clips


def name_of_best_member(recipe: Recipe) -> str | None:
    """Return the member of the best trial, which comes first; None unless the recipe is an ensemble of trials."""
    is_of_trials = recipe.from_ is not None and recipe.from_.trials is not None
    return next(iter(recipe.ensemble), None) if is_of_trials else None


def measured_on_test(member: Scores, ensemble: Scores, truth: Truth) -> MemberOnTest:
    """Measure a member beside its ensemble, by their scores of the test clips."""
    bootstrap = Bootstrap(truth)
    auc = mean_auc(member, truth)
    difference = interval_of_difference(ensemble, member, truth, bootstrap=bootstrap)
    gain = Gain(mean_auc(ensemble, truth) - auc, difference)
    return MemberOnTest(auc, interval_of(member, truth, bootstrap=bootstrap), gain)
