"""A machine ID: one machine of a machine type.

Files, thresholds and labels name it by its text, `fan/00`, which is joined and taken apart here alone.
"""

from __future__ import annotations

from typing import NamedTuple


class MachineId(NamedTuple):
    """One machine: its type and its number. Sorted, the machine IDs of a type are side by side."""

    machine: str  # the machine type: the name of its folder
    number: str  # as names give it: "00"; neither part has a slash in it

    def __str__(self) -> str:
        return f"{self.machine}/{self.number}"

    @classmethod
    def parse(cls, name: str) -> MachineId:
        """The machine ID of a text that `str` returned."""
        machine, _, number = name.rpartition("/")
        return cls(machine, number)
