"""Offkey's log. Loggers are named after their modules, so that all of them are below the packages' names.

A worker writes its log to standard error, which its fleet puts into a file. Elsewhere nothing is shown of it, unless
somebody asks for it: what people are to know is printed, or a warning.
"""

from __future__ import annotations

import logging

#: The loggers that all others are below.
_PACKAGES = ("features", "models", "search")

#: A line of the log: when, which process, what.
FORMAT, DATES = "%(asctime)s %(process)d %(message)s", "%Y-%m-%d %H:%M:%S"


def keep_quiet() -> None:
    """Shows nothing of the log where nobody asks for it: without a handler Python would print warnings."""
    for package in _PACKAGES:
        logging.getLogger(package).addHandler(logging.NullHandler())


def write_to_stderr(*, verbose: bool) -> None:
    """A worker's log, and warnings of the libraries below it."""
    logging.basicConfig(format=FORMAT, datefmt=DATES, level=logging.WARNING, force=True)
    for package in _PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)


def show_all(handler: logging.Handler) -> None:
    """Hands all of Offkey's log to a handler, in the format of workers."""
    handler.setFormatter(logging.Formatter(FORMAT, DATES))
    for package in _PACKAGES:
        logging.getLogger(package).addHandler(handler)
        logging.getLogger(package).setLevel(logging.DEBUG)
