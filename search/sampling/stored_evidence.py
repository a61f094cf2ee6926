"""What a study knows of the variants of a family: the tables of its trials, kept as system attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import optuna
from optuna.trial import TrialState

from search.sampling.rungs import first_rung, is_on_curve, is_rung
from search.storage.hold import Hold
from search.storage.outages import StorageAway
from search.storage.study_storage import StudyStorage

#: The key of a table in a trial's system attributes. The step follows; before it the machine type, if there is one.
_KEY = "variants:"


class StoredEvidence:
    """The tables of one trial and of the other trials of its family, for all clips or for those of a machine type."""

    def __init__(
        self, storage: StudyStorage, study: optuna.Study, hold: Hold, *, max_steps: int, machine: str | None = None
    ) -> None:
        """`study` is Optuna's view of the study; it is read anew at each judged step."""
        self._storage, self._study, self._hold = storage, study, hold
        self._max_steps, self._first_rung = max_steps, first_rung(max_steps)
        self._key = _KEY if machine is None else f"{_KEY}{machine}:"
        self.parameters: dict[str, Any] = {}  # of the variant that the trial takes
        self.curve: dict[int, float] = {}  # its value at each judged step
        self._tried = 1
        self._others: list[Sequence[float | None]] = []
        self._of_machines: list[StoredEvidence] = []

    def of_machine(self, machine: str) -> StoredEvidence:
        of_machine = StoredEvidence(self._storage, self._study, self._hold, max_steps=self._max_steps, machine=machine)
        self._of_machines.append(of_machine)
        return of_machine

    @property
    def tried(self) -> int:
        """The number of the trial's variants."""
        return max([self._tried, *(each.tried for each in self._of_machines)])

    def judges(self, step: int, *, has_choice: bool) -> bool:
        return is_rung(step, first=self._first_rung) if has_choice else is_on_curve(step)

    def others(self, variants: str) -> Sequence[Sequence[float | None]]:
        # While the database is away, the trial goes by what it read last.
        with suppress(StorageAway), self._storage.impatient():
            self._others = self._read_others(variants)
        return self._others

    def _read_others(self, variants: str) -> list[Sequence[float | None]]:
        trials = self._study.get_trials(deepcopy=False)
        family = next((t.params.get("family") for t in trials if t.number == self._hold.number), None)
        complete = (t for t in trials if t.state == TrialState.COMPLETE and t.params.get("family") == family)
        tables = (self._tables(trial.system_attrs) for trial in complete)
        last = (table[max(table)] for table in tables if table)
        return [table["values"] for table in last if table["variants"] == variants]

    def own(self) -> Mapping[int, Sequence[float | None]]:
        tables = self._tables(self._storage.get_trial(self._hold.trial_id).system_attrs)
        return {step: table["values"] for step, table in tables.items()}

    def keep(self, step: int, values: Sequence[float | None], variants: str) -> None:
        self._tried = len(values)
        # Without a table the trial goes on: it is no evidence for other trials.
        with suppress(StorageAway), self._storage.impatient():
            self._storage.set_trial_system_attr(
                self._hold.trial_id, f"{self._key}{step}", {"variants": variants, "values": list(values)}
            )

    def take(self, values: Mapping[str, Any], curve: Mapping[int, float]) -> None:
        self.parameters, self.curve = dict(values), dict(curve)

    def _tables(self, attributes: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
        parts = ((key.rpartition(":"), values) for key, values in attributes.items() if key.startswith(_KEY))
        return {int(step): values for (key, colon, step), values in parts if key + colon == self._key}
