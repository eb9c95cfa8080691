"""Named places between the steps of the delivery protocol where a test may let the process die.

`DATAFLARE_CRASH_AT=name` kills this process with SIGKILL when it reaches that place,
`name:3` at the third time. Without the variable a place costs two comparisons.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_wanted, _, _count = os.environ.get("DATAFLARE_CRASH_AT", "").partition(":")
_left = int(_count or 1)


_observer: Callable[[str], None] | None = None


@contextmanager
def observed(observer: Callable[[str], None]) -> Iterator[None]:
    """Call `observer` with the name of each place that any thread reaches. For tests."""
    global _observer
    before, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = before


def observe(observer: Callable[[str], None]) -> None:
    """As `observed`, for the rest of the process."""
    global _observer
    _observer = observer


def crash_point(name: str) -> None:
    """Die here if a test asked for it."""
    if _observer is not None:
        _observer(name)
    if _wanted and name == _wanted:
        global _left
        _left -= 1
        if _left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
