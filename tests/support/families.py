"""Adds families of models that tests define."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from models import families


def add_family(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    """Adds a family as any is: a module with `Settings` and `Model`, and a line in FAMILIES."""
    module = ModuleType(f"family_{name}")
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(families.FAMILIES, name, module.__name__)
