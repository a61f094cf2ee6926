"""Where this checkout lies."""

from __future__ import annotations

from pathlib import Path

HOUSE = Path(__file__).parents[2]
