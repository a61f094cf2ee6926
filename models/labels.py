"""The labels of training clips that a model may take as inputs or classify."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

#: The index of an ID, or of attributes, that no training clip has.
UNKNOWN = -1


@dataclass(frozen=True)
class Labels:
    """The machine IDs of training clips, and the attributes that each has."""

    ids: tuple[str, ...]  # machine/ID, sorted
    attributes: tuple[tuple[str, str], ...]  # (machine/ID, attributes), sorted

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Labels:
        """The labels of clips, each given as (machine/ID, attributes)."""
        distinct = sorted(set(pairs))
        return cls(ids=tuple(dict.fromkeys(name for name, _ in distinct)), attributes=tuple(distinct))

    def of_id(self, name: str) -> Labels:
        """The labels of one machine ID alone."""
        return Labels(ids=(name,), attributes=tuple(pair for pair in self.attributes if pair[0] == name))

    def id_index(self, name: str) -> int:
        """The index of a machine ID, or UNKNOWN."""
        return self._id_indices.get(name, UNKNOWN)

    def attribute_index(self, name: str, attributes: str) -> int:
        """The index of a pair of machine ID and attributes, or UNKNOWN."""
        return self._attribute_indices.get((name, attributes), UNKNOWN)

    @cached_property
    def _id_indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.ids)}

    @cached_property
    def _attribute_indices(self) -> dict[tuple[str, str], int]:
        return {pair: index for index, pair in enumerate(self.attributes)}
