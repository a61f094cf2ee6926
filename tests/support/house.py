"""The folder of this checkout."""

from __future__ import annotations

from pathlib import Path

HOUSE = Path(__file__).parents[2]
