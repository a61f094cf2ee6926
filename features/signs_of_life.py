"""Signs of life of long computations: whoever waits can tell a slow computation from one that hangs.

A computation gives a sign after each piece of its work, and says beforehand which steps are long pieces. Signs reach
the listener of the thread in which they are given; where nobody listens, they cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Listener(Protocol):
    """Waits for a computation."""

    def sign(self) -> None:
        """Called after each piece of work."""

    def begin_slow_step(self) -> None: ...

    def end_slow_step(self) -> None: ...

    def begin_work_of_a_place(self) -> None: ...

    def end_work_of_a_place(self) -> None: ...


_listener: ContextVar[Listener | None] = ContextVar("the listener of signs of life", default=None)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Within this context, this thread's signs reach the listener."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


def sign_of_life() -> None:
    """Tells that a piece of work is done."""
    if (listener := _listener.get()) is not None:
        listener.sign()


@contextmanager
def slow_step() -> Iterator[None]:
    """Within this context, a piece of work is known to be long: it gives no sign until it is done."""
    listener = _listener.get()
    if listener is not None:
        listener.begin_slow_step()
    try:
        yield
    finally:
        if listener is not None:
            listener.end_slow_step()
            listener.sign()


@contextmanager
def work_of_a_place() -> Iterator[None]:
    """Within this context, a disk, a network or a server has the work: if there is no sign, it is to blame."""
    listener = _listener.get()
    if listener is not None:
        listener.begin_work_of_a_place()
    try:
        yield
    finally:
        if listener is not None:
            listener.end_work_of_a_place()
