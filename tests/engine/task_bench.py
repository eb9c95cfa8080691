"""One task of the engine with its channels and a coordinator that only listens."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import polars as pl

from dataflare.engine.backpressure import BackpressureController
from dataflare.engine.body import Body
from dataflare.engine.channel import Channel, Inbox, MemoryBudget
from dataflare.engine.messages import Assign, Deploy, Fail, Inlet, Share, Wait
from dataflare.engine.metrics import StepMetrics, TaskMetrics
from dataflare.engine.pool import ThreadPool
from dataflare.engine.task import Output, Task
from dataflare.model.types import Schema
from dataflare.planner.physical import Stage

ROWS = pl.DataFrame({"n": [1, 2, 3]})
SCHEMA = Schema.of({"n": "int64"})


class Heard:
    """A coordinator that only listens."""

    def __init__(self) -> None:
        self.shares: list[Share] = []
        self.failures: list[Fail] = []
        self.splits: list[Assign | Wait] = []

    def share(self, share: Share) -> None:
        self.shares.append(share)

    def fail(self, failure: Fail) -> None:
        self.failures.append(failure)

    async def assign(self, source: str, task: str) -> Assign | Wait | None:
        return self.splits.pop(0) if self.splits else None

    @property
    def epochs(self) -> list[int | None]:
        return [share.epoch for share in self.shares]


def inbox(name: str) -> Inbox:
    controller = BackpressureController(initial_credits=1_000)
    return Inbox(name, controller, MemoryBudget(1 << 30, controller))


class Bench:
    """One task with a channel in, unless it is a source, and one out."""

    def __init__(self, body: Body, *, inputs: int = 1, letters: bool = False) -> None:
        self.heard, self.behind, self.inbox = Heard(), inbox("behind"), inbox("t")
        self.ins: list[Channel] = [self.inbox.channel() for _ in range(inputs)]
        self.out = self.behind.channel()
        self.letters = inbox("letters")
        letters_out = self.letters.channel()
        stage = Stage(0, "t", ("t",), 1, SCHEMA, letters={"t": 1} if letters else {})
        inlets = tuple(Inlet(n, f"before[{n}]") for n in range(inputs))
        self.pool = ThreadPool(2)
        self.task = Task(
            Deploy("t[0]", stage, 0, inlets),
            body,
            outputs=[Output(0, "forward", (), (self.out,))]
            + ([Output(1, "gather", (), (letters_out,))] if letters else []),
            inbox=self.inbox,
            pool=self.pool,
            metrics=TaskMetrics({"t": "transformation"}),
            control=self.heard,
            letters=pl.concat,
        )

    def start(self) -> asyncio.Future[None]:
        return asyncio.ensure_future(self.task.run())

    async def came_out(self, count: int) -> list[Any]:
        return [await self.behind.next() for _ in range(count)]

    @property
    def counts(self) -> StepMetrics:
        return self.task.metrics.step("t")


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 20))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)
