"""Statements on Optuna's own tables, in the caller's transaction. The caller commits.

They rely on Optuna's schema: a trial's parameters, reports and attributes are rows of `TrialParamModel`,
`TrialIntermediateValueModel`, `TrialUserAttributeModel` and `TrialSystemAttributeModel`, a study's attributes of
`StudySystemAttributeModel`; an artifact is a system attribute whose key begins with "artifacts:".
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages._rdb import models
from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Executable, Float, String, cast, delete, func, or_, select, union_all, update
from sqlalchemy.orm import Session

from search.storage.dialects import insert_of
from search.storage.tables import RetriedRow

#: The keys of the system attributes that describe artifacts begin with this; the artifact's ID follows.
ARTIFACT_KEY = "artifacts:"

#: The user attribute that says how long workers have worked on a trial, over all its attempts.
SECONDS = "seconds"

#: The user attribute that says why a trial failed.
FAILURE = "failure"

#: The key of the system attribute with the scale of a trial's scores in an ensemble.
SCALES = "scales"

#: Numbers that a column cannot hold, by Optuna's name for their kind.
_NOT_FINITE = {"NAN": math.nan, "INF_POS": math.inf, "INF_NEG": -math.inf}

#: The most trials that a statement lists by ID: with this many, every query planner uses the index.
_MOST_NAMED = 1000


def trial(session: Session, trial_id: int) -> Any:
    """Optuna's row of a trial."""
    return session.get_one(models.TrialModel, trial_id)


#: Reads the rows of a statement. It gives its connection back before it returns.
Read = Callable[[Executable], Sequence[Any]]


def trials(
    read: Read, study_id: int, *, among: Collection[int], after: int, states: Collection[TrialState],
    curves: Collection[TrialState],
) -> list[FrozenTrial]:  # fmt: skip
    """The study's trials in these `states` with an ID in `among` or greater than `after`, ordered by ID.

    Only trials in the states of `curves` come with their reports. The result is that of Optuna's own method, which is
    slower because it creates an object for each row. A large study is read in parts: a process has one connection, and
    between two parts the thread that renews its lease gets it.
    """
    table = models.TrialModel
    again = sorted(number for number in among if number <= after)
    times = table._datetime_start_utc.label("start"), table._datetime_complete_utc.label("end")
    columns = table.trial_id, table.number, table.state, *times
    # The trials' states first: a trial that ends meanwhile counts as unfinished here, so that it is read again later.
    of_study = select(*columns).where(table.study_id == study_id, table.state.in_(states))
    # A trial that was put back may have been read before, as one that had ended.
    retried = table.trial_id.in_(select(RetriedRow.trial_id).where(RetriedRow.study_id == study_id))
    trial_rows = list(
        read(of_study.where(or_(table.trial_id > after, table.trial_id.in_(again[:_MOST_NAMED]), retried)))
    )
    for part in _in_parts(again[_MOST_NAMED:]):
        trial_rows += read(of_study.where(table.trial_id.in_(part), ~retried))
    trial_rows.sort(key=lambda row: row.trial_id)

    def rows(of: Any, *columns: Any, states: Collection[TrialState]) -> dict[int, list[Any]]:
        by_trial = defaultdict(list)
        for part in _in_parts([row.trial_id for row in trial_rows if row.state in states]):
            for trial_id, *row in read(select(of.trial_id, *columns).where(of.trial_id.in_(part))):
                by_trial[trial_id].append(row)
        return by_trial

    parameter, value, report = models.TrialParamModel, models.TrialValueModel, models.TrialIntermediateValueModel
    user, system = models.TrialUserAttributeModel, models.TrialSystemAttributeModel
    kind, report_kind = _unusual(value.value_type), _unusual(report.intermediate_value_type)
    parameters = rows(
        parameter, parameter.param_id, parameter.param_name, parameter.param_value, parameter.distribution_json,
        states=states,
    )  # fmt: skip
    values = rows(value, value.objective, value.value, kind, states=states)
    user_attributes = rows(user, user.key, user.value_json, states=states)
    system_attributes = rows(system, system.key, system.value_json, states=states)
    reports = rows(report, report.step, report.intermediate_value, report_kind, states=set(states) & set(curves))

    def frozen(row: Any) -> FrozenTrial:
        trial_id = row.trial_id
        settings = [(name, v, _distribution(text)) for _, name, v, text in sorted(parameters[trial_id])]
        return FrozenTrial(
            number=row.number,
            state=row.state,
            value=None,
            values=[_NOT_FINITE.get(kind, v) for _, v, kind in sorted(values[trial_id])] or None,
            datetime_start=_local(row.start),
            datetime_complete=_local(row.end),
            params={name: distribution.to_external_repr(v) for name, v, distribution in settings},
            distributions={name: distribution for name, _, distribution in settings},
            user_attrs={key: json.loads(text) for key, text in user_attributes[trial_id]},
            system_attrs={key: json.loads(text) for key, text in system_attributes[trial_id]},
            intermediate_values={step: _NOT_FINITE.get(kind, v) for step, v, kind in reports[trial_id]},
            trial_id=trial_id,
        )

    return [frozen(row) for row in trial_rows]


def _in_parts(trial_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for first in range(0, len(trial_ids), _MOST_NAMED):
        yield trial_ids[first : first + _MOST_NAMED]


def _local(utc: datetime | None) -> datetime | None:
    """A time that the database holds, as Optuna gives it: by this host's clock, without a zone."""
    return None if utc is None else utc.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def _unusual(kind: Any) -> Any:
    """The kind of a number; NULL for a finite one, as most are."""
    return func.nullif(cast(kind, String), "FINITE")


@lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def report(session: Session, trial_id: int, step: int, value: float) -> None:
    """Reports a value in one statement (Optuna's own method: three). A later report of a step replaces its value."""
    table = models.TrialIntermediateValueModel
    stored, kind = table.intermediate_value_to_stored_repr(value)
    values = {"intermediate_value": stored, "intermediate_value_type": kind}
    statement = insert_of(session, table).values(trial_id=trial_id, step=step, **values)
    session.execute(statement.on_conflict_do_update(index_elements=[table.trial_id, table.step], set_=values))


def forget_reports(session: Session, trial_id: int, *, after: int = 0) -> None:
    """Deletes a trial's reports of the steps after `after`."""
    table = models.TrialIntermediateValueModel
    session.execute(delete(table).where(table.trial_id == trial_id, table.step > after))


def forget_pruning(session: Session, trial_id: int) -> None:
    """Deletes what the pruner stored in the trial's system attributes at each rung."""
    table = models.TrialSystemAttributeModel
    session.execute(delete(table).where(table.trial_id == trial_id, table.key != "fixed_params"))


def put_back(session: Session, trial_ids: Collection[int]) -> None:
    """Lets ended trials wait, with their parameters alone: without values, reports and what was found out about them.

    In one statement for each table.
    """
    trials, user, system = models.TrialModel, models.TrialUserAttributeModel, models.TrialSystemAttributeModel
    waiting = {"state": TrialState.WAITING, "datetime_complete": None}
    session.execute(
        update(trials)
        .where(trials.trial_id.in_(trial_ids))
        .values(waiting)
        .execution_options(synchronize_session=False)
    )
    for table in (models.TrialIntermediateValueModel, models.TrialValueModel):
        session.execute(delete(table).where(table.trial_id.in_(trial_ids)))
    session.execute(delete(system).where(system.trial_id.in_(trial_ids), system.key != "fixed_params"))
    session.execute(delete(user).where(user.trial_id.in_(trial_ids), user.key.in_([SECONDS, FAILURE])))


def set_parameters(session: Session, trial_id: int, parameters: Mapping[str, tuple[Any, BaseDistribution]]) -> None:
    """Sets parameters of a trial, each with its range. Replaces those that exist."""
    table = models.TrialParamModel
    for name, (value, distribution) in parameters.items():
        values = {
            "param_value": distribution.to_internal_repr(value),
            "distribution_json": distribution_to_json(distribution),
        }
        statement = insert_of(session, table).values(trial_id=trial_id, param_name=name, **values)
        session.execute(statement.on_conflict_do_update(index_elements=[table.trial_id, table.param_name], set_=values))


def forget_parameters(session: Session, trial_id: int) -> None:
    """Deletes a trial's parameters, so that they are suggested again."""
    session.execute(delete(models.TrialParamModel).where(models.TrialParamModel.trial_id == trial_id))


def set_attributes(
    session: Session, trial_id: int, *, user: Mapping[str, Any] | None, system: Mapping[str, Any] | None
) -> None:
    """Sets attributes of a trial in one statement a kind; Optuna's own method takes three for each attribute.

    Replaces attributes that exist: a person at the dashboard may have set one of that name, or this may be the second
    try after the first one's answer was lost.
    """
    _set(session, models.TrialUserAttributeModel, {"trial_id": trial_id}, user or {})
    _set(session, models.TrialSystemAttributeModel, {"trial_id": trial_id}, system or {})


def seconds_of(trial: FrozenTrial) -> float:
    """How long workers have worked on a trial, as far as is known."""
    if SECONDS in trial.user_attrs:
        return float(trial.user_attrs[SECONDS])
    if trial.datetime_start is None or trial.datetime_complete is None:
        return 0.0
    return (trial.datetime_complete - trial.datetime_start).total_seconds()


def seconds(session: Session, trial_id: int) -> float:
    """How long workers have worked on a trial, as far as is known."""
    table = models.TrialUserAttributeModel
    known = select(table.value_json).where(table.trial_id == trial_id, table.key == SECONDS)
    return float(session.execute(known).scalar_one_or_none() or 0.0)


def seconds_by_family(session: Session, study_id: int) -> list[list[float]]:
    """The seconds of a study's ended trials, a list for each family that has any."""
    trials, attributes, parameters = models.TrialModel, models.TrialUserAttributeModel, models.TrialParamModel
    query = (
        select(parameters.param_value, attributes.value_json)
        .select_from(trials)
        .join(attributes, (attributes.trial_id == trials.trial_id) & (attributes.key == SECONDS))
        .outerjoin(parameters, (parameters.trial_id == trials.trial_id) & (parameters.param_name == "family"))
        .where(trials.study_id == study_id, trials.state.not_in([TrialState.RUNNING, TrialState.WAITING]))
    )
    by_family = defaultdict(list)
    for family, value in session.execute(query):
        by_family[family].append(float(value))
    return list(by_family.values())


def study_attributes(session: Session, study_id: int, prefix: str) -> dict[str, Any]:
    """The study's system attributes whose keys begin with `prefix`. PostgreSQL locks their rows until the commit."""
    table = models.StudySystemAttributeModel
    of_study = select(table.key, table.value_json).where(
        table.study_id == study_id, table.key.startswith(prefix, autoescape=True)
    )
    return {key: json.loads(value) for key, value in session.execute(of_study.with_for_update())}


def set_study_attributes(session: Session, study_id: int, entries: Mapping[str, Any]) -> None:
    """Sets system attributes of a study. Replaces those that exist."""
    _set(session, models.StudySystemAttributeModel, {"study_id": study_id}, entries)


def best_value(session: Session, study_id: int) -> float | None:
    """The best first value of the study's complete trials that keep to its limits; None if there is none."""
    trials, values, attributes = models.TrialModel, models.TrialValueModel, models.TrialSystemAttributeModel
    beyond_a_limit = select(attributes.trial_id).where(
        attributes.trial_id == trials.trial_id,
        attributes.key.startswith(f"{_CONSTRAINTS_KEY}:"),
        cast(attributes.value_json, Float) > 0,
    )
    best = (
        select(func.max(values.value))
        .join(trials, trials.trial_id == values.trial_id)
        .where(
            trials.study_id == study_id,
            trials.state == TrialState.COMPLETE,
            values.objective == 0,
            ~beyond_a_limit.exists(),
        )
    )
    value: float | None = session.execute(best).scalar_one()
    return value


def artifacts(session: Session, study_id: int) -> list[str]:
    """The IDs of the study's and its trials' artifacts."""
    trials = models.TrialModel
    own, of_trial = models.StudySystemAttributeModel, models.TrialSystemAttributeModel
    of_study = select(own.key).where(own.study_id == study_id, own.key.startswith(ARTIFACT_KEY))
    of_trials = (
        select(of_trial.key)
        .join(trials, trials.trial_id == of_trial.trial_id)
        .where(trials.study_id == study_id, of_trial.key.startswith(ARTIFACT_KEY))
    )
    return [key.removeprefix(ARTIFACT_KEY) for key in session.execute(union_all(of_study, of_trials)).scalars()]


def rename_study(session: Session, study_id: int, name: str) -> None:
    """Gives a study another name. Raises IntegrityError if another study has it."""
    models.StudyModel.find_or_raise_by_id(study_id, session).study_name = name
    session.flush()


def delete_study(session: Session, study_id: int) -> None:
    """Deletes a study and its trials, in one statement for each table. Raises KeyError if there is none."""
    models.StudyModel.find_or_raise_by_id(study_id, session)
    trials = select(models.TrialModel.trial_id).where(models.TrialModel.study_id == study_id)
    for table in reversed(models.BaseModel.metadata.sorted_tables):  # those that refer to others first
        if "study_id" in table.c:
            session.execute(delete(table).where(table.c.study_id == study_id))
        elif "trial_id" in table.c:
            session.execute(delete(table).where(table.c.trial_id.in_(trials)))
    session.expire_all()


def _set(session: Session, table: Any, owner: Mapping[str, int], entries: Mapping[str, Any]) -> None:
    rows = [{**owner, "key": key, "value_json": json.dumps(value)} for key, value in entries.items()]
    if rows:
        insert = insert_of(session, table)
        values = {"value_json": insert.excluded.value_json}
        session.execute(insert.on_conflict_do_update(index_elements=[*owner, "key"], set_=values), rows)
