"""The end of a message about an unknown name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(got: str, known: Iterable[str]) -> str:
    """`; did you mean vae?`: names the known name that is most like `got`, in any case. Empty if none is like it."""
    names = {name.lower(): name for name in known}
    near = get_close_matches(got.lower(), names, n=1)
    return f"; did you mean {names[near[0]]}?" if near else ""
