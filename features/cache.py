"""Where Offkey keeps what it can compute again."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Feature stores, checkpoints and pictures lie below it: $OFFKEY_CACHE, else the platform's cache folder."""
    return Path(os.environ.get("OFFKEY_CACHE") or platformdirs.user_cache_path("offkey"))
