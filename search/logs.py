"""The log of Offkey. Loggers are named after their modules, so that the packages' loggers are above all of them.

A worker writes its log to standard error, which its fleet puts into a file. Other processes show no log unless the
user asks for it (`--verbose`): they print what users need to know, or warn.
"""

from __future__ import annotations

import logging

#: The loggers above all others.
_PACKAGES = ("features", "models", "search")

#: A line of the log: time, process, message.
FORMAT, DATES = "%(asctime)s %(process)d %(message)s", "%Y-%m-%d %H:%M:%S"


def keep_quiet() -> None:
    """Hide the log unless the user asks for it: without a handler Python would print its warnings."""
    for package in _PACKAGES:
        logging.getLogger(package).addHandler(logging.NullHandler())


def write_to_stderr(*, verbose: bool) -> None:
    """Write the log of a worker, and warnings of other libraries, to standard error."""
    logging.basicConfig(format=FORMAT, datefmt=DATES, level=logging.WARNING, force=True)
    for package in _PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)


def show_all(handler: logging.Handler) -> None:
    """Hand the whole log of Offkey to a handler, in the format of workers."""
    handler.setFormatter(logging.Formatter(FORMAT, DATES))
    for package in _PACKAGES:
        logging.getLogger(package).addHandler(handler)
        logging.getLogger(package).setLevel(logging.DEBUG)
