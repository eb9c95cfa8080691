"""Keep an attempt that was taken for dead from publishing once a newer one has begun.

Always true: the number in the file is the newest attempt that began and never goes down; whoever
publishes holds the lock, so a newer attempt begins before that or after it, never in between.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from dataflare.errors import CheckpointError
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import refuse_older

_BYTES = 64
_WRITTEN = re.compile(r"([0-9]{20})(?: ([0-9a-f]*))?\s*", re.ASCII)


class Fence:
    """Of one attempt at one step, in the step's folder in checkpoint storage."""

    def __init__(self, context: DestinationContext) -> None:
        self._path = context.redo / f"attempt-{context.lineage8}"
        self._context = context
        self.step = context.step

    @contextmanager
    def held(self, *, begins: bool = False) -> Iterator[None]:
        """Publish inside. begins: the attempt begins, so a damaged file is written anew.

        Raises RunError (E0804) when a newer attempt has begun, CheckpointError (E0704) for a file
        that somebody else damaged while the attempt runs.
        """
        ours = self._context.attempt, self._context.token
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(file, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX)
            text = os.pread(file, _BYTES, 0).decode("ascii", "replace")
            written = _WRITTEN.fullmatch(text)
            if written is not None:
                newest = int(written[1]), written[2] or ""
                refuse_older(self._context.step, ours, newest)
            elif text and not begins:
                raise CheckpointError(
                    f"{self._path} is damaged: it says which attempt may write",
                    code="E0704",
                    step=self._context.step,
                    help="run again: the file is written anew at each start",
                )
            if written is None or newest != ours:
                os.pwrite(file, f"{ours[0]:020d} {ours[1]}\n".encode().ljust(_BYTES), 0)
                os.ftruncate(file, _BYTES)
            yield
        finally:
            os.close(file)
