"""Errors that the person at the keyboard can mend.

Each message states the rule that was broken, what was got, where, and what to do. The command line prints
them without a traceback; every other exception is a bug and shows one.
"""


class OffkeyError(Exception):
    """Something the user can mend: the base of all of Offkey's own errors."""


class CorpusError(OffkeyError):
    """The recordings are not there, cannot be read, or do not fit what is asked of them."""


class UnservedError(CorpusError):
    """The recordings cannot serve what one setting asks of them; others they might."""


class ClipTooShortError(UnservedError):
    """A clip has fewer frames than a model needs at once."""


class StoreError(OffkeyError):
    """The frame store cannot be written or read: a full disk, a folder without permission."""


def first_line(error: Exception) -> str:
    """The first line with text of a library's error, for a message that quotes it; else the name of its class."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
