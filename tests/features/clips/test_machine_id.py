"""A machine ID and its text."""

from __future__ import annotations

import pytest

from features.clips.machine_id import MachineId


@pytest.mark.parametrize(
    ("machine_id", "name"),
    [
        (MachineId("fan", "00"), "fan/00"),
        (MachineId("pump 2", "04"), "pump 2/04"),
        (MachineId("fan", ""), "fan/"),  # of a clip whose name gives none
    ],
)
def test_its_text_can_be_read_back(machine_id: MachineId, name: str) -> None:
    assert str(machine_id) == f"{machine_id}" == name
    assert MachineId.parse(name) == machine_id


def test_the_ids_of_a_machine_stay_together_when_sorted() -> None:
    names = ["fan-2/00", "fan/02", "fan/00"]

    assert [str(one) for one in sorted(map(MachineId.parse, names))] == ["fan/00", "fan/02", "fan-2/00"]
