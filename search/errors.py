"""Errors of studies and detectors that the user can mend (see features.errors), a trial's failure, and warnings."""

from __future__ import annotations

import sys
import warnings

from features.errors import OffkeyError


class MisuseError(OffkeyError):
    """A command or a function is used in a way that its rules do not allow."""


class StudyFileError(MisuseError):
    """A study file, a recipe or a `--set` breaks a rule of the schema."""


class StudyError(OffkeyError):
    """A study cannot be run or joined as asked: for example other data, another space, no labels to validate on."""


class StorageError(OffkeyError):
    """The storage cannot be reached, read or written."""


class NoStorageError(StorageError):
    """There is no database at the URL of the storage."""


class BundleError(OffkeyError):
    """A bundle cannot be written or loaded."""


class TrialFailure(Exception):
    """A failure of one trial that another attempt would repeat. The message is its reason."""


class OffkeyWarning(UserWarning):
    """A warning that the command line prints, raised in a notebook by `warnings.warn`."""


def warn_user(text: str) -> None:
    """Warn at the user's own line: the nearest one outside of `search`, however deep in it the warning arises."""
    frame, depth = sys._getframe(), 1
    while frame.f_globals.get("__name__", "").startswith("search.") and frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
    warnings.warn(text, OffkeyWarning, stacklevel=depth)
