"""Digests that identify contents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def digest_of(parts: Iterable[str]) -> str:
    """A digest of a sequence of texts; equal only for equal sequences."""
    whole = hashlib.sha256()
    for part in parts:
        # A file's name need not be UTF-8: Python holds its other bytes as lone surrogates.
        whole.update(hashlib.sha256(part.encode(errors="surrogateescape")).digest())
    return whole.hexdigest()
