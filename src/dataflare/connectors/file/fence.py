"""Keep an attempt that was taken for dead from publishing once a newer one has begun.

Always true: the number in the file is the newest attempt that began and never goes down; whoever
publishes holds the lock, so a newer attempt begins before that or after it, never in between.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from dataflare.errors import RunError
from dataflare.sdk.context import DestinationContext

_DIGITS = 20


class Fence:
    """Of one attempt at one step, in the step's folder in checkpoint storage."""

    def __init__(self, context: DestinationContext) -> None:
        self._path = context.redo / f"attempt-{context.lineage8}"
        self._step, self._attempt = context.step, context.attempt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Publish inside. Raises RunError (E0804) when a newer attempt has begun."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(file, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            newest = int(os.pread(file, _DIGITS, 0) or b"0")
            if newest > self._attempt:
                raise RunError(
                    f"step '{self._step}' is fenced: attempt {newest} of this run has taken over "
                    f"from attempt {self._attempt}",
                    code="E0804",
                    step=self._step,
                    help="let the newer attempt go on; this one has nothing left to do",
                )
            if newest < self._attempt:
                os.pwrite(file, f"{self._attempt:0{_DIGITS}d}".encode(), 0)
            yield
        finally:
            os.close(file)
