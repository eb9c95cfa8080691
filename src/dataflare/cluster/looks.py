"""Looks at the rows of a run whose tasks are in other processes.

Always true: what a look may not show is hidden in the process of the task, before anything is sent; without a look,
nothing is done. A worker takes as many rows a second as the whole look may show, and the job shows no more than these.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

from dataflare.cluster.orders import Look, Looked, LookEnd
from dataflare.engine.taps import Tap, Taps
from dataflare.errors import RunError

_SEND_S = 0.1

Say = Callable[[Any], None]
"""Sends an order to the other side."""


class CrewTaps(Taps):
    """The looks of a run, in the process of its job. say: to all its workers."""

    def __init__(self, say: Say) -> None:
        super().__init__()
        self._say, self._numbers = say, count()
        self._taps: dict[int, Tap] = {}
        self._is_open = False

    def open(self) -> None:
        """The workers have their tasks."""
        self._is_open = True
        for number, tap in self._taps.items():
            self._begin(number, tap)

    def add(self, tap: Tap) -> None:
        super().add(tap)
        number = next(self._numbers)
        self._taps[number] = tap
        if self._is_open:
            self._begin(number, tap)

    def _begin(self, number: int, tap: Tap) -> None:
        self._say(Look(number, tuple(tap.edges), tap.per_s, tap.where, tap.hide))

    def remove(self, tap: Tap) -> None:
        super().remove(tap)
        for number in [number for number, each in self._taps.items() if each is tap]:
            del self._taps[number]
            self._say(LookEnd(number))

    def looked(self, looked: Looked) -> None:
        """A worker says what it has taken."""
        tap = self._taps.get(looked.number)
        if tap is None:
            return
        for frame in looked.frames:
            tap.show(frame)
        if looked.failed is not None:
            tap.error = RunError(looked.failed, code="E0813", help="look again, or without --where")
            tap.end()
            self.remove(tap)

    def end(self) -> None:
        super().end()
        self._taps.clear()


class WorkerLooks:
    """The looks of a job, in a worker. taps: of its tasks. say: to the job."""

    def __init__(self, taps: Taps, say: Say) -> None:
        self._taps, self._say = taps, say
        self._looks: dict[int, Tap] = {}
        self._sending: asyncio.Task[None] | None = None

    def begin(self, look: Look) -> None:
        tap = self._looks[look.number] = Tap(look.edges, look.per_s, look.where, look.hide)
        self._taps.add(tap)
        if self._sending is None:
            self._sending = asyncio.ensure_future(self._send())

    def end(self, number: int) -> None:
        tap = self._looks.pop(number, None)
        if tap is not None:
            self._taps.remove(tap)

    def close(self) -> None:
        for number in list(self._looks):
            self.end(number)
        if self._sending is not None:
            self._sending.cancel()

    async def _send(self) -> None:
        while self._looks:
            await asyncio.sleep(_SEND_S)
            for number, tap in list(self._looks.items()):
                frames = tuple(tap.taken())
                failed = None if tap.error is None else f"the look failed: {tap.error}"
                if frames or failed:
                    self._say(Looked(number, frames, failed))
                if failed:
                    self.end(number)
        self._sending = None
