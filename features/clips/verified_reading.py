"""Clips read again, after their corpus was: to compute frames, to give them faults, to show and to play them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

from features.clips.clip import Clip
from features.clips.wav import UnreadableWav
from features.errors import CorpusError

T = TypeVar("T")


def read_clip(clip: Clip, decode: Callable[[bytes], T]) -> T:
    """Decodes a clip's file with `decode`, if its bytes are still those of the clip's digest.

    Raises CorpusError if the file is no longer there, is another by now, or cannot be decoded.
    """
    try:
        contents = clip.path.read_bytes()
        if hashlib.sha256(contents).hexdigest() != clip.digest:
            raise CorpusError(f"{clip.path} changed after the corpus was read. Run again.")
        return decode(contents)
    except OSError as error:
        raise CorpusError(f"{clip.path} can no longer be read ({error.strerror}).") from error
    except UnreadableWav as error:
        raise CorpusError(f"{clip.path} cannot be used: {error}") from error
