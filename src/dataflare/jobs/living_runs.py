"""The runs that live in this process, and what changes when they are many.

Each run looks at itself now and then: it samples its course, judges alerts, and sees who asks for a savepoint. It also
makes a thousand objects that live as long as it does. Neither costs much for one run. A thousand runs that look each second
take a processor, and a full garbage collection of their objects stops the event loop for a second.

Always true:
- all runs together look at most `LOOKS_PER_S` times a second;
- garbage collection is changed only where its thresholds are those that Python starts with, and only while there are
  many runs. A program that sets its own keeps them.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LOOKS_PER_S = 100
"""A look takes 0.2 to 0.4 ms: all together take a thirtieth of a processor."""
_MANY = 20
_OF_PYTHON = frozenset({(700, 10, 10), (2000, 10, 10), (2000, 10, 0)})
_SELDOM = (20_000, 20, 10)
"""Measured with 1,000 runs of 1,200 objects each: with Python's thresholds their start took 18 s of collections, and a
full one stopped the event loop for 0.7 to 1.4 s every ten seconds. A young one of 20,000 objects takes 5 ms."""

_lock = threading.Lock()
_alive = 0
_before: tuple[int, int, int] | None = None


@contextmanager
def living() -> Iterator[None]:
    """Count a run until the end of the `with`."""
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def alive() -> int:
    """How many runs live in this process."""
    return _alive


def look_every_s(least_s: float) -> float:
    """The seconds from one look of a run to its next. least_s: where it is alone."""
    return max(least_s, _alive / LOOKS_PER_S)


def _count(runs: int) -> None:
    global _alive, _before
    with _lock:
        _alive += runs
        if _alive >= _MANY and _before is None and gc.get_threshold() in _OF_PYTHON:
            _before = gc.get_threshold()
            gc.set_threshold(*_SELDOM)
        elif _alive < _MANY and _before is not None:
            if gc.get_threshold() == _SELDOM:
                gc.set_threshold(*_before)
            _before = None
