"""The body of a task that writes at the rate of its step."""

from __future__ import annotations

from typing import Any

from dataflare.engine.messages import Share
from dataflare.engine.pace import Pace, RowTurns
from dataflare.engine.writing import Writing
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Barrier
from dataflare.observability.times import Doing


class PacedWriting(Writing):
    """pace: how fast rows may come to the writer."""

    def __init__(self, pace: Pace, *options: Any, **more: Any) -> None:
        super().__init__(*options, **more)
        self._gate = RowTurns(pace)

    def takes_at_once(self, batch: SharedDataBatch) -> bool:
        return False

    async def rows(self, port: int, batch: SharedDataBatch) -> float:
        seconds = 0.0
        for part in self._gate.parts(batch):
            self.task.clock.enter(Doing.BLOCKED)
            await self._gate.turn(part.num_rows, part.num_bytes)
            self.task.clock.enter(Doing.BUSY)
            seconds += await super().rows(port, part)
        return seconds

    def asked(self) -> None:
        self._gate.barrier_asked()

    async def prepare(self, barrier: Barrier) -> Share:
        share = await super().prepare(barrier)
        self._gate.barrier_passed()
        return share
