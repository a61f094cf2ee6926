"""How often the held-out test clips were looked at, by whichever recipe: counted in the study storage.

A figure on clips that nobody has looked at before is honest. Whoever measures many recipes on the same ones and keeps
the best has chosen by them, as a search does by its validation clips, and its figure flatters. The same recipe measured
once more chooses nothing.

    offkey_test_looks   a row for each evaluation: which clips, when, which recipe, its AUC

Another seed or share of the validation, or a clip more, makes another set of test clips, of which many were looked at
before: every look counts that was at one of them.

Clips are known by their contents, a recipe by all that its figures depend on: neither by where it lies, nor by what it
is called. An evaluation counts for the storage that it is entered in: another storage knows nothing of it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, Engine, String, distinct, func, insert, inspect, select
from sqlalchemy.orm import Mapped, mapped_column

from features.clips.clip import Clip
from features.digests import digest_of
from search.storage import database
from search.storage.ledger import LEASE_SECONDS
from search.storage.tables import Base, StudyRow, database_now
from search.study.recipe import Recipe


class TestEvaluationRow(Base):
    """One evaluation on held-out test clips."""

    __tablename__ = "offkey_test_looks"

    look: Mapped[str] = mapped_column(String(32), primary_key=True)  # random
    clips: Mapped[str] = mapped_column(String(64), index=True)  # all of them, see clips_digest
    each_clip: Mapped[bytes | None]  # see clip_keys; None of looks that an earlier version entered
    looked: Mapped[float] = mapped_column()  # seconds since 1970 by the database's clock
    recipe: Mapped[str] = mapped_column(String(200))  # its name
    recipe_digest: Mapped[str] = mapped_column(String(64))
    auc: Mapped[float]


@dataclass(frozen=True)
class TestEvaluations:
    """How often some clips or a part of them were looked at, the last time included, as far as one storage knows."""

    count: int | None  # None where it is not known
    recipes: int | None  # different ones among them
    unknown: str = ""  # why it is not known
    clips: int = 0  # how many they are
    seen: int = 0  # how many of them were looked at before
    unlisted: int = 0  # other looks, of which it is not known at which clips they were

    @classmethod
    def uncounted(cls, reason: str) -> TestEvaluations:
        """Where nobody counts."""
        return cls(None, None, reason)

    @property
    def in_words(self) -> str:
        """What it means for the figure beside it, in sentences without the last full stop."""
        if self.count is None or self.recipes is None:
            return f"How often the held-out test clips were looked at is not counted: {self.unknown}"
        if self.count == 1:
            first = "The held-out test clips were looked at for the first time, as far as this storage knows"
            others = f": of {self.unlisted} looks that an earlier version entered, it does not know the clips"
            return first + (others if self.unlisted else "")
        seen = f"The held-out test clips were seen {self.count} times, this one included"
        if self.seen < self.clips:
            seen = (
                f"{self.seen} of the {self.clips} held-out test clips were seen before: {self.count} looks, this one "
                "included, were at some of them"
            )
        if self.recipes == 1:
            return f"{seen}, always by this recipe: nothing was chosen by them"
        return f"{seen}, by {self.recipes} different recipes: the best of these flatters itself on them, too"


NO_STORAGE = TestEvaluations.uncounted("no study storage here (--storage names one)")


def enter_test_evaluation(url: str, clips: Iterable[Clip], recipe: Recipe, auc: float) -> TestEvaluations:
    """Enters an evaluation of a trained recipe on held-out clips; how often they were looked at, this one included.

    Makes no storage where there is none. Raises StorageError if the storage cannot be reached, read or written.
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
            return _entered(engine, tuple(clips), recipe, auc)
        finally:
            engine.dispose()


def _entered(engine: Engine, clips: Sequence[Clip], recipe: Recipe, auc: float) -> TestEvaluations:
    look, digest, keys = secrets.token_hex(16), clips_digest(clips), clip_keys(clips)
    row = {
        "look": look,
        "clips": digest,
        "each_clip": keys.tobytes(),
        "recipe": recipe.study,
        "recipe_digest": recipe_digest(recipe),
    }
    with engine.begin() as connection:
        connection.execute(insert(TestEvaluationRow).values(**row, looked=database_now(), auc=auc))
    # In a transaction of its own: of two that look at once, the one that commits last sees both.
    with engine.begin() as connection:
        return _counted(connection, look, digest, keys)


def _counted(connection: Connection, look: str, digest: str, keys: npt.NDArray[np.uint64]) -> TestEvaluations:
    """The looks at some of the same clips as this `look`'s, itself included."""
    before = set(
        connection.execute(select(TestEvaluationRow.clips).where(TestEvaluationRow.look != look).distinct()).scalars()
    )
    # The clips of each set once, however often it was looked at.
    first = (
        select(func.min(TestEvaluationRow.look))
        .where(TestEvaluationRow.each_clip.is_not(None))
        .group_by(TestEvaluationRow.clips)
    )
    sets = connection.execute(
        select(TestEvaluationRow.clips, TestEvaluationRow.each_clip).where(TestEvaluationRow.look.in_(first))
    ).all()
    seen_in = {
        name: np.isin(keys, np.frombuffer(blob, dtype=keys.dtype)) for name, blob in sets if blob and name in before
    }
    sharing = [name for name, seen in seen_in.items() if seen.any()]
    counts = select(func.count(), func.count(distinct(TestEvaluationRow.recipe_digest)))
    count, recipes = connection.execute(counts.where(TestEvaluationRow.clips.in_([digest, *sharing]))).one()
    unlisted = select(func.count()).where(TestEvaluationRow.clips.not_in([name for name, _ in sets]))
    return TestEvaluations(
        count,
        recipes,
        clips=len(keys),
        seen=int(np.any(list(seen_in.values()), axis=0).sum()),
        unlisted=connection.execute(unlisted).scalar_one(),
    )


def clips_digest(clips: Iterable[Clip]) -> str:
    """Of contents and labels, in whatever order, whatever their names are."""
    return digest_of(sorted(f"{clip.digest}\0{clip.label}" for clip in clips))


def clip_keys(clips: Iterable[Clip]) -> npt.NDArray[np.uint64]:
    """A number for the contents of each clip, ascending: the same on every host."""
    return np.sort(np.array([int(digest_of([clip.digest])[:16], 16) for clip in clips], dtype="<u8"))


def recipe_digest(recipe: Recipe) -> str:
    """Of what the figures of a recipe depend on: not of its name, its origin, where the clips lie, or its threads."""
    tree = recipe.tree()
    for block, key in (("corpus", "root"), ("training", "threads")):
        tree[block].pop(key, None)
    settings = {key: value for key, value in tree.items() if key not in ("study", "from")}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
