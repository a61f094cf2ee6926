"""Errors of a study that the person at the keyboard can mend (see features.errors); a trial's own failure; warnings."""

from features.errors import OffkeyError


class MisuseError(OffkeyError):
    """A command is used in a way that it does not know."""


class StudyFileError(MisuseError):
    """A study file, a recipe or a `--set` breaks a rule of the schema."""


class StudyError(OffkeyError):
    """A study cannot be run or joined as asked: other data, other space, no labels to validate on."""


class StorageError(OffkeyError):
    """The study storage cannot be reached, read or written."""


class NoStorageError(StorageError):
    """There is no database where one was looked for."""


class BundleError(OffkeyError):
    """A bundle cannot be written or loaded."""


class TrialFailure(Exception):
    """A trial's own failure, which another try would only repeat; the message is its reason."""


class OffkeyWarning(UserWarning):
    """What the command line prints as a warning, in a notebook."""
