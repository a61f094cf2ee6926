"""A worker's work on one trial: it suggests parameters, trains, reports, keeps checkpoints, and ends the trial.

Modules for training are imported when a trial is run: a worker that waits for a trial stays small.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import optuna

from features.clips.corpus import Corpus
from features.errors import OffkeyError, StoreError
from features.signs_of_life import slow_step, work_of_a_place
from models.scoring.scores import Scores
from search.artifacts.checkpoints import Checkpoints, steps_of
from search.errors import TrialFailure
from search.evaluation.metrics import id_aucs
from search.storage.claims import LeaseLost
from search.storage.hold import Hold
from search.storage.optuna_rows import FAILURE, SECONDS
from search.storage.stored_study import StoredStudy
from search.storage.study_ledger import StudyLedger
from search.study.branches import without_family
from search.study.machine_types import MACHINE_TYPES, parameter_of
from search.study.search_settings import keeps_to_limits
from search.study.taken_variant import TakenVariant
from search.validation.views import ValidationData
from search.workers.devices import device_name, memory_used
from search.workers.draining import Drained
from search.workers.lease_renewal import Lease, over_time

if TYPE_CHECKING:
    from search.dashboard.exhibits import Exhibit
    from search.sampling.suggestions import Suggestions
    from search.study.recipe import Recipe
    from search.training.protocols import ModelTraining, Train, TrialTraining

_log = logging.getLogger(__name__)

#: Pauses between two tries to read a checkpoint whose place is away (seconds).
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0

#: How long the first checkpoint waits for its place (seconds); later ones are left out instead.
_WRITE_PATIENCE = 15.0

T = TypeVar("T")

Show = Callable[["ModelTraining", Scores], Iterable["Exhibit"]]


def draw(model: ModelTraining, scores: Scores) -> Iterable[Exhibit]:
    """Pictures and sounds of a model with these scores of its validation clips."""
    from search.dashboard.exhibits import exhibits_of  # imported here: the libraries that draw take a while to load

    return exhibits_of(model, scores)


@dataclass
class TrialWork:
    """A claimed trial, and everything that its training needs."""

    hold: Hold
    lease: Lease
    ledger: StudyLedger
    stored: StoredStudy
    suggestions: Suggestions
    validation_data: ValidationData
    checkpoints: Checkpoints
    device: str
    stop: threading.Event
    train: Train | None  # instead of the real training
    show: Show | None  # draws a leading trial's exhibits, if there are any
    _scores: list[Scores] = field(default_factory=list, init=False)  # the validation clips', after each judged step
    _scales: dict[str, tuple[float, float]] = field(default_factory=dict, init=False)  # of these, in an ensemble
    _noted: int = field(default=0, init=False)  # of them, those that a checkpoint or the pruner has seen
    _models: list[ModelTraining] = field(default_factory=list, init=False)  # the last trained model alone

    def run(self) -> bool:
        """Trains the trial until it is complete, pruned or failed. Returns whether it leads the study now.

        Raises LeaseLost if another worker holds the trial, Drained if the worker was asked to stop.
        """
        from search.training.objective import objective

        hold = self.hold
        _log.info("trial %d: claimed, attempt %d", hold.number, hold.attempts)
        checkpoint = None if hold.checkpoint is None else self._read_patiently(hold.checkpoint)
        if checkpoint is not None:
            assert hold.checkpoint is not None
            hold.rewind(steps=steps_of(hold.checkpoint))
        if checkpoint is None and hold.token > 1:
            # If its last worker left before the last parameter, all are suggested again: a sampler's later numbers
            # depend on its earlier ones.
            hold.start_over(parameters=not hold.is_settled())
        trial = self.suggestions.settled_trial(hold)
        self._evidence = self.suggestions.evidence(hold)
        try:
            worth = objective(
                trial,
                self.suggestions.study,
                self.validation_data,
                device=self.device,
                train=self._train,
                checkpoint=checkpoint,
                before_batch=self._before_batch,
                after_epoch=self._after_epoch,
                on_scores=self._scores.append,
                # With several objectives no ensemble is made of a study's trials.
                on_scales=self._scales.update if len(self.stored.objectives) == 1 else None,
                evidence=self._evidence,
            )
        except optuna.TrialPruned:
            scores = self._scores[-1]
            value = self.validation_data.metric(self.stored.objectives[0], scores)
            attributes, chosen = self._attributes(scores), self._chosen(trial)
            hold.finish("pruned", values=[value], scores=scores, attributes=attributes, **chosen)
            _log.info("trial %d: pruned, %s %.4f", hold.number, self.stored.metric_name, value)
        except TrialFailure as failure:
            attributes = self._attributes() | {FAILURE: str(failure)}
            hold.finish("failed", values=None, reason=str(failure), attributes=attributes)
            _log.warning("trial %d: failed: %s", hold.number, failure)
        else:
            return self._complete(trial, worth if isinstance(worth, tuple) else (worth,))
        return False

    def _read_patiently(self, entry: str) -> BinaryIO | None:
        """The checkpoint of a ledger's entry, as soon as its place can be read. None if it is missing or damaged.

        Raises StoreError if the place stays away for as long as a database is waited for.
        """
        try:
            return self._patiently(lambda: self.checkpoints.read(entry), self.hold.patience)
        except StoreError:
            return self.checkpoints.read(entry, empty_is_away=False)

    def _patiently(self, action: Callable[[], T], seconds: float) -> T:
        """Returns what `action` returns, and repeats it for so long while the place of checkpoints is away."""
        began, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                with work_of_a_place():
                    return action()
            except StoreError as error:
                if time.monotonic() - began >= seconds:
                    raise
                _log.warning("trial %d: waiting: %s", self.hold.number, error)
            self.lease.sign()
            self._require_wanted()
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _complete(self, trial: optuna.Trial, values: tuple[float, ...]) -> bool:
        leads, scores = self._leads(trial, values[0]), self._scores[-1]
        self.hold.finish(
            "complete",
            values=values,
            scores=scores,
            attributes=self._attributes(scores),
            exhibits=self._exhibits(self.show, scores) if leads and self.show is not None else None,
            scales=self._scales or None,
            **self._chosen(trial),
        )
        _log.info("trial %d: complete, %s %.4f", self.hold.number, self.stored.metric_name, values[0])
        return leads

    def _train(self, recipe: Recipe, corpus: Corpus, device: str) -> ModelTraining:
        from search.training.objective import train_for_real

        self._models.clear()  # a device may have memory for one model and not for two
        self._models.append((self.train or train_for_real)(recipe, corpus, device))
        return self._models[0]

    def _before_batch(self) -> None:
        self.lease.batches += 1
        self.lease.sign()
        self._require_wanted()
        if (reason := over_time(self.hold, self.suggestions.study.search.trial_minutes)) is not None:
            raise TrialFailure(reason)

    def _require_wanted(self) -> None:
        """Raises LeaseLost or Drained if this worker is not to go on with the trial."""
        if self.lease.lost.is_set():
            raise LeaseLost
        if self.stop.is_set():
            raise Drained

    def _after_epoch(self, training: TrialTraining) -> None:
        hold = self.hold
        is_scored = len(self._scores) > self._noted  # and so reported next
        self._noted = len(self._scores)
        if training.step is not None and is_scored:
            scores = self._scores[-1]
            self.suggestions.note_for_pruner(hold, training.step, scores, self.validation_data.truth.first(len(scores)))
        if not hold.is_behind():
            last = hold.checkpoint_in_ledger()
            write = partial(self.checkpoints.write, training, trial=hold.number, token=hold.token, beside=last)
            entry = self._patiently(write, min(_WRITE_PATIENCE, hold.patience))
            if entry is not None and entry != last:
                hold.keep_checkpoint(entry)
                if not is_scored:  # no report follows that would enter it
                    hold.enter_checkpoint()

    def _leads(self, trial: optuna.Trial, value: float) -> bool:
        if not keeps_to_limits(trial):
            return False
        best = self.ledger.best_value()
        return best is None or value > best

    def _chosen(self, trial: optuna.Trial) -> dict[str, Any]:
        """What was chosen after the training: parameters with their ranges, the curve under them, and the variant."""
        study, chosen = self.suggestions.study, self._evidence.parameters
        ranges, machines = study.space.distributions(), trial.user_attrs.get(MACHINE_TYPES, ())
        ranges = {parameter_of(machine, name): ranges[name] for machine in machines for name in ranges} | ranges
        parameters = {name: (value, ranges[name]) for name, value in chosen.items()}
        variant = self._variant(trial, machines) if self._evidence.tried > 1 else None
        return {"parameters": parameters, "curve": self._evidence.curve, "variant": variant}

    def _variant(self, trial: optuna.Trial, machines: Sequence[str]) -> TakenVariant:
        """The variant with the names of its settings in short, without what an entry of `search.first` had closed."""
        study, chosen, family = self.suggestions.study, self._evidence.parameters, trial.params.get("family")
        names = [name for name in study.space.distributions() if name not in study.tried_first.get(trial.number, {})]
        if not machines:
            values = {name: chosen[name] for name in names if name in chosen}
            return TakenVariant(without_family(values, family), self._evidence.tried)
        of_types: dict[str, Any] = {}
        for machine in machines:
            keys = {name: parameter_of(machine, name) for name in names}
            own = {name: chosen[key] for name, key in keys.items() if key in chosen}
            of_types |= {parameter_of(machine, name): value for name, value in without_family(own, family).items()}
        return TakenVariant(of_types, self._evidence.tried)

    def _attributes(self, scores: Scores | None = None) -> dict[str, Any]:
        """The trial's attributes, for the dashboard and for the sampler, which reads the seconds."""
        own = {
            SECONDS: round(self.hold.seconds, 2),
            "memory, MB": round(memory_used(self.device) / 1e6),
            "device": device_name(self.device),
        }
        aucs = {} if scores is None else id_aucs(scores, self.validation_data.truth.first(len(scores)))
        return own | {f"AUC {name}": round(value, 4) for name, value in aucs.items()}

    def _exhibits(self, show: Show, scores: Scores) -> dict[str, str]:
        """Uploads a leading trial's exhibits and returns their system attributes. With folds, the last fold's model.

        Any error is logged; it never stops the trial: for example a folder that cannot be written, a recording that
        was moved away, or a GPU without memory for a reconstruction.
        """
        from search.dashboard.exhibits import upload

        number = self.hold.number
        try:
            with slow_step():
                exhibits = show(self._models[0], scores[self.validation_data.truth.last_fold])
            with work_of_a_place():
                return upload(exhibits, self.checkpoints.place, uid=self.stored.uid, number=number)
        except (OffkeyError, OSError) as error:
            _log.warning("trial %d: has no pictures: %s", number, error)
        except Exception:
            _log.exception("trial %d: has no pictures", number)
        return {}
