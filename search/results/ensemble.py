"""The ensemble of a study's own leading trials: which trials, its recipe, and what it would be worth on validation.

Members are taken from the best trial downwards, at most 5, at least 2. A trial is a member if

    it is good      its value is within one standard error of the best trial's: that of the difference, by a bootstrap
                    over the validation clips that both share
    it is unlike    its scores are not those of a better member once more: the rank correlation (Spearman), the mean
                    over machine IDs, is at most 0.99
    it may join     it trained on the same clips as the best trial, and is no ensemble itself; if the best trial is one,
                    the best of the others takes its place in these rules

Nothing more is chosen by the clips: a greedy choice and learnt weights were no better where we measured them, and
promised more than they held. The members' scores are combined as `models.scoring.fusion` does it with `combine: mean`,
`calibrate: z` and `squash: true`. Each trial keeps its scores of the validation clips and their scale, so that the
value is that of the trained ensemble, not an estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from models.scoring.combination import combined, on_scale
from models.scoring.scores import Array, Scores
from search.errors import MisuseError, StudyError
from search.evaluation.bootstrap import Bootstrap
from search.evaluation.metrics import metric_of
from search.evaluation.noise import RESAMPLES
from search.evaluation.truth import Truth
from search.results.export import recipe_of
from search.results.status import Status, read_status, worth
from search.storage.optuna_rows import SCALES
from search.storage.stored_study import StoredStudy
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage
from search.study import space as spaces
from search.study.ensembles import clips_of, ensemble_of
from search.study.precision import with_precision
from search.study.recipe import OF_THE_WHOLE, Origin, Recipe, trials_in_words

FEWEST_MEMBERS, MOST_MEMBERS = 2, 5

#: The rank correlation above which two trials are one.
MOST_ALIKE = 0.99

#: Only so many of the best trials are considered: each costs a bootstrap.
CONSIDERED_TRIALS = 50


@dataclass(frozen=True)
class Ensemble:
    """An ensemble of a study's trials."""

    trials: tuple[int, ...]  # their numbers, the best first
    value: float | None  # of the objective, on the validation clips; None where the scale of a member is not known

    def in_words(self, study: str, best: float) -> str:
        """Say what it would be worth, where the best trial of this study has the value `best`, and how to get it.

        Empty if it is known to be no better than that trial, at three decimals.
        """
        command = f"offkey export {study} --ensemble"
        if not self.is_better_than(best):
            return ""
        if self.value is None:
            return f"An ensemble of {trials_in_words(self.trials)} may be better than the best trial alone: {command}"
        worth = f"would have {self.value:.3f} instead of {best:.3f} on these validation clips"
        return f"An ensemble of {trials_in_words(self.trials)} {worth}: {command}"

    def is_better_than(self, best: float) -> bool:
        """Whether it may be better than the best trial alone, whose value is `best`, at three decimals."""
        return self.value is None or round(self.value, 3) > round(best, 3)


def members_of(
    values: Sequence[float], error: Callable[[int], float], likeness: Callable[[int, int], float]
) -> list[int]:
    """Return the positions of the members among candidates, whose `values` begin with the best one; empty if too few.

    `error` is the standard error of the difference between the best value and a candidate's, `likeness` the rank
    correlation of two candidates.
    """
    members: list[int] = []
    for position, value in enumerate(values):
        is_good = values[0] - value <= (error(position) if position else 0.0)
        if is_good and all(likeness(member, position) <= MOST_ALIKE for member in members):
            members.append(position)
        if len(members) == MOST_MEMBERS:
            break
    return members if len(members) >= FEWEST_MEMBERS else []


def candidates(status: Status) -> tuple[FrozenTrial, ...]:
    """Return the trials among which members are searched, the best first; none with several objectives."""
    return status.finished[:CONSIDERED_TRIALS] if len(status.objectives) == 1 else ()


def ensemble_of_trials(stored: StoredStudy, status: Status, scores: Mapping[int, Scores]) -> Ensemble | None:
    """Return the ensemble of a study's trials; None if there are too few members.

    `scores` are those of the validation clips, by trial: of all `candidates`.
    """
    trials = _combinable(stored, candidates(status))
    if len(trials) < FEWEST_MEMBERS:
        return None
    bootstrap = Bootstrap(stored.truth, resamples=RESAMPLES)

    @cache
    def resampled(position: int) -> Array:
        return bootstrap.metric(stored.metric, scores[trials[position].number])

    @cache
    def standing(position: int) -> Array:
        return standings(scores[trials[position].number], stored.truth)

    members = members_of(
        [worth(trial) for trial in trials],
        error=lambda position: float((resampled(0) - resampled(position)).std(ddof=1)),
        likeness=lambda one, other: float(standing(one) @ standing(other)),
    )
    if not members:
        return None
    chosen = [trials[position] for position in members]
    return Ensemble(tuple(trial.number for trial in chosen), _value(stored, chosen, scores))


def export_ensemble(
    storage: StudyStorage, stored: StoredStudy, *, tell: Callable[[str], object] = lambda warning: None
) -> Recipe:
    """Return the recipe of the ensemble of a study's leading trials; its members are the recipes of these trials.

    Thresholds, calibration of the result and threads are those of the best member. `tell` is called with a warning if
    the best trial alone is as good on the validation clips. Raises StudyError if there are too few members, MisuseError
    if several objectives leave open which trials lead.
    """
    if len(stored.objectives) > 1:
        raise MisuseError(
            f"The study {stored.name!r} has several objectives ({', '.join(stored.objectives)}), and so no ensemble of "
            "its best trials: export some with --trial N, and give their recipes to `offkey train A.yaml B.yaml`"
        )
    status = read_status(storage, stored, optuna.load_study(study_name=stored.name, storage=storage))
    trials = {trial.number: trial for trial in candidates(status)}
    ensemble = ensemble_of_trials(stored, status, StudyLedger(storage, stored).scores(trials.keys()))
    if ensemble is None:
        raise StudyError(
            f"The study {stored.name!r} has no ensemble: it takes at least two trials that are within one standard "
            f"error of the best and unlike each other, but of its {len(status.finished)} complete trials no two are. "
            "Search on, or export some with --trial N and give their recipes to `offkey train A.yaml B.yaml`"
        )
    if status.best is not None and not ensemble.is_better_than(worth(status.best)):
        tell(
            f"the ensemble has a validation {stored.metric_name} of {ensemble.value:.3f}, trial {status.best.number} "
            f"alone has {worth(status.best):.3f}"
        )
    best, *others = (recipe_of(stored, trials[number]) for number in ensemble.trials)
    of_best = {key: getattr(best.scoring, key) for key in OF_THE_WHOLE["scoring"]}
    alike = [
        best,
        *(other.model_copy(update={"scoring": other.scoring.model_copy(update=of_best)}) for other in others),
    ]
    named = [
        (f"trial {number}", recipe.model_copy(update={"study": f"trial-{number}"}))
        for number, recipe in zip(ensemble.trials, alike, strict=True)
    ]
    # The trials have closed their precision; what trains nothing closes as in their own recipes.
    closed = with_precision(ensemble_of(named, combine="mean", squash=True), None, native=lambda: "float32")
    return closed.model_copy(
        update={
            "study": f"{stored.name}-ensemble",
            "from_": Origin(study=stored.name, trials=list(ensemble.trials)),
        }
    )


def standings(scores: Scores, truth: Truth) -> Array:
    """Return a vector for these scores, (clips,): the product of two such vectors is their rank correlation.

    The correlation is the mean over machine IDs and folds. Where an ID's scores are all alike, it is 0.
    """
    from scipy.stats import rankdata  # here: it takes a while to load

    groups = list(zip(truth.ids, truth.folds or [0] * len(truth), strict=True))
    names, of_clips = np.unique(np.array([f"{fold} {name}" for name, fold in groups]), return_inverse=True)
    vector = np.zeros(len(scores))
    for group in range(len(names)):
        clips = of_clips == group
        ranks = rankdata(scores[clips])
        centred = ranks - ranks.mean()
        vector[clips] = centred / (np.linalg.norm(centred) or 1.0)
    return np.asarray(vector / np.sqrt(len(names)))


def _combinable(stored: StoredStudy, trials: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
    """Return the trials that are single models, and that trained on the same clips as the first of these."""
    tree = stored.tree
    cleaning, training = tree.get("cleaning") or {}, tree.get("training") or {}
    of_clips = {"corpus": tree["corpus"], "withheld": training.get("calibration_share"), "cleaning": cleaning}
    branches = tree["model"] if isinstance(tree["model"], list) else [tree["model"]]
    has_ensembles = any(branch.get("family") == "fusion" for branch in branches)
    if not has_ensembles and not any(spaces.ranges_in(of_clips)) and cleaning.get("method", "none") == "none":
        return trials  # as in most studies: no recipe is needed, and no model has to be imported
    recipes = [(trial, recipe_of(stored, trial)) for trial in trials]
    single = [(trial, clips_of(recipe)) for trial, recipe in recipes if not recipe.ensemble]
    return [trial for trial, clips in single if clips == single[0][1]]


def _value(stored: StoredStudy, trials: Sequence[FrozenTrial], scores: Mapping[int, Scores]) -> float | None:
    """Return the metric of the trials' combined scores; None if the scale of one is not known."""
    if not all(SCALES in trial.system_attrs for trial in trials):
        return None
    of_members = [on_scale(scores[trial.number], stored.truth.ids, trial.system_attrs[SCALES]) for trial in trials]
    together = combined(np.stack(of_members), "mean", squash=True)
    return metric_of(stored.metric, together, stored.truth)
