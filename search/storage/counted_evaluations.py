"""Test evaluations: the study storage counts each measurement on held-out test clips.

An AUC on clips that nobody has used before is unbiased. A user who measures many recipes on the same test clips and
keeps the best one has chosen by these clips, as a search chooses by its validation clips: the AUC of that recipe is
biased upwards. Measuring the same recipe again chooses nothing.

    offkey_test_looks   a row for each test evaluation: which clips, when, which recipe, its AUC with its interval, its
                        decisions

Another validation seed or share, or one more clip, gives another set of test clips, which shares many clips with the
first one. A test evaluation counts for every set that shares at least one clip with it.

A clip is identified by its contents, a recipe by all settings that its metrics depend on; names and places do not
matter. A test evaluation is known only to the storage that it was entered in.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, Engine, String, Text, distinct, func, insert, inspect, select
from sqlalchemy.orm import Mapped, mapped_column

from features.clips.clip import Clip
from features.digests import digest_of
from search.evaluation.decisions import Decisions
from search.evaluation.interval import Interval
from search.storage import database
from search.storage.lease_rules import LEASE_SECONDS
from search.storage.tables import Base, StudyRow, database_now
from search.study.recipe import Recipe


class TestEvaluationRow(Base):
    """One test evaluation. Its table and columns keep their first names: `look` is its key, `looked` its time."""

    __tablename__ = "offkey_test_looks"

    look: Mapped[str] = mapped_column(String(32), primary_key=True)  # random
    clips: Mapped[str] = mapped_column(String(64), index=True)  # all of them, see clips_digest
    each_clip: Mapped[bytes | None]  # see clip_keys; None where an earlier version entered the row
    looked: Mapped[float] = mapped_column()  # seconds since 1970 by the database's clock
    recipe: Mapped[str] = mapped_column(String(200))  # its name
    recipe_digest: Mapped[str] = mapped_column(String(64))
    auc: Mapped[float]
    auc_interval: Mapped[str | None] = mapped_column(Text)  # JSON: two numbers, or why there is none; None if unknown
    decisions: Mapped[str | None] = mapped_column(Text)  # JSON of Decisions; None if unknown, or without thresholds


@dataclass(frozen=True)
class TestEvaluations:
    """How many test evaluations used at least one clip of a set, the latest one included, by one storage's count."""

    count: int | None  # None where it is not known
    recipes: int | None  # how many different recipes they measured
    unknown: str = ""  # why the count is not known
    clips: int = 0  # clips in the set
    seen: int = 0  # those of them that an earlier test evaluation used
    unlisted: int = 0  # other test evaluations whose clips are not known

    @classmethod
    def uncounted(cls, reason: str) -> TestEvaluations:
        """An unknown count, with the reason."""
        return cls(None, None, reason)

    @property
    def in_words(self) -> str:
        """A sentence on what the count means for the test AUC beside it, without the full stop."""
        if self.count is None or self.recipes is None:
            return f"Test evaluations on the held-out clips are not counted: {self.unknown}"
        if self.count == 1:
            first = "This is the first test evaluation on the held-out clips, as far as this storage knows"
            others = f"; it does not know the clips of {self.unlisted} that an earlier version entered"
            return first + (others if self.unlisted else "")
        uses = f"The held-out test clips were used in {self.count} test evaluations, this one included"
        if self.seen < self.clips:
            uses = (
                f"{self.seen} of the {self.clips} held-out test clips were used before: {self.count} test evaluations, "
                "this one included, used at least one of them"
            )
        if self.recipes == 1:
            return f"{uses}, all of this recipe: nothing was chosen by them"
        return f"{uses}, of {self.recipes} different recipes: the best test AUC among these is biased upwards"


@dataclass(frozen=True)
class MeasuredOnTest:
    """The latest test evaluation of a recipe, as the storage knows it."""

    auc: float
    interval: Interval | None  # of the AUC
    why_no_interval: str  # empty if there is one
    decisions: Decisions | None  # of its thresholds; None if an earlier version entered it, or it has none
    evaluations: TestEvaluations  # that used at least one of its clips, up to now


#: Before tables had their version 9, rows kept no interval.
_OLDER = "no interval: an earlier version of Offkey entered it"

NO_STORAGE = TestEvaluations.uncounted("no study storage here (--storage names one)")


def enter_test_evaluation(
    url: str,
    clips: Iterable[Clip],
    recipe: Recipe,
    auc: float,
    interval: Interval | str,
    decisions: Decisions | None = None,
) -> TestEvaluations:
    """Enters a trained recipe's evaluation on held-out clips. Returns the count, this evaluation included.

    `interval` is that of the AUC, or says why there is none.

    Creates no storage where there is none: then the count is unknown. Raises StorageError if the storage cannot be
    reached, read or written.
    """
    parsed = database.parse_url(url)
    if parsed.get_backend_name() == "sqlite" and database.file_of(parsed) is None:
        return NO_STORAGE
    with database.storage_errors(url):
        engine = database.engine_of_one(parsed, lease=LEASE_SECONDS)
        try:
            if not inspect(engine).has_table(StudyRow.__tablename__):
                return NO_STORAGE
            database.migrate(engine)
            return _entered(engine, tuple(clips), recipe, auc, interval, decisions)
        finally:
            engine.dispose()


def latest_evaluation_of(engine: Engine, recipe: Recipe) -> MeasuredOnTest | None:
    """Returns the latest test evaluation of a recipe; None if it has none whose clips are known."""
    with engine.begin() as connection:
        row = connection.execute(
            select(TestEvaluationRow.__table__)
            .where(TestEvaluationRow.recipe_digest == recipe_digest(recipe), TestEvaluationRow.each_clip.is_not(None))
            .order_by(TestEvaluationRow.looked.desc())
            .limit(1)
        ).first()
        if row is None:
            return None
        keys = np.frombuffer(row.each_clip, dtype="<u8")
        interval = _OLDER if row.auc_interval is None else json.loads(row.auc_interval)
        return MeasuredOnTest(
            auc=row.auc,
            interval=None if isinstance(interval, str) else Interval(*interval),
            why_no_interval=interval if isinstance(interval, str) else "",
            decisions=None if row.decisions is None else Decisions(**json.loads(row.decisions)),
            evaluations=_counted(connection, row.look, row.clips, keys),
        )


def _entered(
    engine: Engine,
    clips: Sequence[Clip],
    recipe: Recipe,
    auc: float,
    interval: Interval | str,
    decisions: Decisions | None,
) -> TestEvaluations:
    evaluation, digest, keys = secrets.token_hex(16), clips_digest(clips), clip_keys(clips)
    row = {
        "look": evaluation,
        "clips": digest,
        "each_clip": keys.tobytes(),
        "recipe": recipe.study,
        "recipe_digest": recipe_digest(recipe),
        "auc_interval": json.dumps(interval),
        "decisions": None if decisions is None else json.dumps(asdict(decisions)),
    }
    with engine.begin() as connection:
        connection.execute(insert(TestEvaluationRow).values(**row, looked=database_now(), auc=auc))
    # A transaction of its own: of two evaluations at the same time, the one that commits last counts both.
    with engine.begin() as connection:
        return _counted(connection, evaluation, digest, keys)


def _counted(connection: Connection, evaluation: str, digest: str, keys: npt.NDArray[np.uint64]) -> TestEvaluations:
    """The count of test evaluations that share a clip with this `evaluation`, itself included."""
    others = select(TestEvaluationRow.clips).where(TestEvaluationRow.look != evaluation).distinct()
    before = set(connection.execute(others).scalars())
    # Reads the clips of each set once, however many evaluations used it.
    first = (
        select(func.min(TestEvaluationRow.look))
        .where(TestEvaluationRow.each_clip.is_not(None))
        .group_by(TestEvaluationRow.clips)
    )
    sets = connection.execute(
        select(TestEvaluationRow.clips, TestEvaluationRow.each_clip).where(TestEvaluationRow.look.in_(first))
    ).all()
    shared_with = {
        name: np.isin(keys, np.frombuffer(blob, dtype=keys.dtype)) for name, blob in sets if blob and name in before
    }
    sharing = [name for name, is_shared in shared_with.items() if is_shared.any()]
    counts = select(func.count(), func.count(distinct(TestEvaluationRow.recipe_digest)))
    count, recipes = connection.execute(counts.where(TestEvaluationRow.clips.in_([digest, *sharing]))).one()
    unlisted = select(func.count()).where(TestEvaluationRow.clips.not_in([name for name, _ in sets]))
    return TestEvaluations(
        count,
        recipes,
        clips=len(keys),
        seen=int(np.any(list(shared_with.values()), axis=0).sum()),
        unlisted=connection.execute(unlisted).scalar_one(),
    )


def clips_digest(clips: Iterable[Clip]) -> str:
    """A digest of the clips' contents and labels. Order and names do not change it."""
    return digest_of(sorted(f"{clip.digest}\0{clip.label}" for clip in clips))


def clip_keys(clips: Iterable[Clip]) -> npt.NDArray[np.uint64]:
    """A number for each clip's contents, (clips,), ascending: the same on every host."""
    return np.sort(np.array([int(digest_of([clip.digest])[:16], 16) for clip in clips], dtype="<u8"))


def recipe_digest(recipe: Recipe) -> str:
    """A digest of the settings that a recipe's metrics depend on.

    Its name, its origin, where the clips lie, and its threads do not change the digest.
    """
    tree = recipe.tree()
    for block, key in (("corpus", "root"), ("training", "threads")):
        tree[block].pop(key, None)
    settings = {key: value for key, value in tree.items() if key not in ("study", "from")}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
