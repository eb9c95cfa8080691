"""Stop an old attempt from publishing after a newer attempt has begun.

Always true: the number in the file is the newest attempt that began, and it never decreases; an
attempt publishes only while it holds the lock, so a newer attempt begins before or after, never in
between.
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
_CONTENT = re.compile(r"([0-9]{20})(?: ([0-9a-f]*))?\s*", re.ASCII)


class Fence:
    """The fence of one attempt at one step. Its file is in the step's folder in checkpoint
    storage."""

    def __init__(self, context: DestinationContext) -> None:
        self._path = context.redo / f"attempt-{context.lineage8}"
        self._context = context
        self.step = context.step

    @contextmanager
    def lock(self, *, begins: bool = False) -> Iterator[None]:
        """Hold the lock; the caller publishes inside. begins: the attempt begins, so a damaged file
        is written again.

        Raises RunError (E0804) if a newer attempt has begun, CheckpointError (E0704) if another
        program damaged the file while the attempt runs.
        """
        own_attempt = self._context.attempt, self._context.token
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(file, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX)
            text = os.pread(file, _BYTES, 0).decode("ascii", "replace")
            match = _CONTENT.fullmatch(text)
            if match is not None:
                newest = int(match[1]), match[2] or ""
                refuse_older(self._context.step, own_attempt, newest)
            elif text and not begins:
                raise CheckpointError(
                    f"{self._path} is damaged: it records which attempt may write",
                    code="E0704",
                    step=self._context.step,
                    help="run again: the file is written at each start",
                )
            if match is None or newest != own_attempt:
                os.pwrite(
                    file, f"{own_attempt[0]:020d} {own_attempt[1]}\n".encode().ljust(_BYTES), 0
                )
                os.ftruncate(file, _BYTES)
            yield
        finally:
            os.close(file)
