"""SHA-256 digests of a bundle's files: a bit that flipped on a disk or on the way is noticed before anything is scored.

detector.json holds the digests of the other files, and as its last key one of its own other keys. The model card has
none: people may add to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: The files whose digests detector.json holds.
COVERED = ("metrics.json", "recipe.yaml", "scores.json", "weights.safetensors")


def file_digests(folder: Path) -> dict[str, str]:
    """The digest of each covered file in a folder."""
    return {name: _file_digest(folder / name) for name in COVERED}


def changed_file(folder: Path, digests: Mapping[str, str]) -> str | None:
    """The first covered file that is not the one of these digests. Raises OSError if one is missing."""
    return next((name for name in COVERED if _file_digest(folder / name) != digests.get(name)), None)


def document_digest(document: Mapping[str, Any]) -> str:
    """The digest of a JSON document; a key `digest` does not count."""
    counted = {key: value for key, value in document.items() if key != "digest"}
    return hashlib.sha256(json.dumps(counted).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
