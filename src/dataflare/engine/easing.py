"""Fewer tasks at once while a process has too little memory: what follows from `memory_guard`, in one process of a run.

Always true:
- one call computes, one split of each source is open and one request goes to each system at least, so nothing waits for what
  cannot come;
- only the order changes in which tasks have their turns, and that is not part of a result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dataflare.engine.backpressure import BackpressureController
from dataflare.engine.memory_guard import MemoryGuard
from dataflare.engine.metrics import JobMetrics
from dataflare.engine.pool import ThreadPool
from dataflare.planner.physical import Stage
from dataflare.sdk.runtime import current

if TYPE_CHECKING:
    from dataflare.engine.task import Task
    from dataflare.workflow.settings import Settings

_SHORT = "memory was short, so fewer tasks computed at once for a while: 'resources.memory' says how much a run may use"


class SplitTurns:
    """How many splits of a source are open at once. inner: bounds them in any case. A reader takes a turn for each split."""

    def __init__(self, inner: asyncio.Semaphore | None = None) -> None:
        self._inner = inner
        self._most: int | None = None
        self._open = 0
        self._changed = asyncio.Event()

    def allow(self, most: int | None) -> None:
        """Let so many be open from now on; None: as many as there are readers. Those that are open stay so."""
        self._most = most
        self._tell()

    async def acquire(self) -> None:
        if self._inner is not None:
            await self._inner.acquire()
        try:
            while self._most is not None and self._open >= self._most:
                await self._changed.wait()
        except BaseException:
            if self._inner is not None:
                self._inner.release()
            raise
        self._open += 1

    def release(self) -> None:
        self._open -= 1
        if self._inner is not None:
            self._inner.release()
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Easing:
    """Looks at the memory while tasks live. metrics: are told of it."""

    def __init__(
        self,
        settings: Settings,
        pool: ThreadPool,
        controller: BackpressureController,
        metrics: JobMetrics,
    ) -> None:
        self._parallelism = max(1, settings.parallelism)
        self._pool, self._controller, self._metrics = pool, controller, metrics
        self._guard = MemoryGuard(settings.resources.memory, pool.threads)
        self._families: dict[str, asyncio.Semaphore] = {}
        self._turns: dict[str, tuple[int, SplitTurns]] = {}
        self._looking: asyncio.Future[None] | None = None
        self._tasks: Sequence[Task] = ()

    def turns_of(self, stage: Stage) -> SplitTurns | None:
        """What a reader takes before it reads a split. None for a source without end, which needs all of its splits open."""
        inner = None
        if stage.turns is not None:  # one table of many
            inner = self._families.setdefault(stage.turns, asyncio.Semaphore(self._parallelism))
        assert stage.source is not None
        if inner is None and not stage.source.capabilities().bounded:
            return None
        if stage.name not in self._turns:
            self._turns[stage.name] = stage.parallelism, SplitTurns(inner)
        return self._turns[stage.name][1]

    def start(self, tasks: Sequence[Task]) -> None:
        """Look from now on. tasks: of this process."""
        self._tasks = tasks
        self._looking = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        guard = self._guard
        while True:
            await asyncio.sleep(guard.look_s)
            is_changed = guard.look()
            self._controller.process_pressure = guard.used
            if is_changed:
                self._ease(guard.share)
            self._metrics.memory_share, self._metrics.memory_short = guard.share, guard.told

    def _ease(self, share: float) -> None:
        self._pool.ease(share)
        for readers, turns in self._turns.values():
            turns.allow(None if share >= 1.0 else max(1, int(readers * share)))
        in_flight = current().in_flight
        if in_flight is not None:
            in_flight.ease(share)
        if share < 1.0 and self._tasks:
            task = self._tasks[0]
            task.metrics.step(task.name).warnings[_SHORT] = 0

    async def aclose(self) -> None:
        """Look no more, and let all go on."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        self._ease(1.0)
        self._metrics.memory_share, self._metrics.memory_short = 1.0, None
