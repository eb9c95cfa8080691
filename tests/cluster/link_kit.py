"""Links between two sides, for tests: in one process, and to a process of its own."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import polars as pl

from dataflare.cluster.channels import Entry, RemoteChannel
from dataflare.cluster.link import Address, Link, LinkServer
from dataflare.engine.backpressure import BackpressureController
from dataflare.engine.channel import Inbox, MemoryBudget
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Mark

T = TypeVar("T")
TOKEN = b"a token of the job"
LIMIT_S = 60.0
"""What does not happen within this time does not happen."""


def run(scenario: Callable[[], Awaitable[T]]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(LIMIT_S):
            return await scenario()

    return asyncio.run(limited())


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until it is so."""
    while not condition():
        await asyncio.sleep(0.001)


@asynccontextmanager
async def serving(token: bytes = TOKEN, **options: Any) -> AsyncIterator[tuple[LinkServer, Address, asyncio.Queue[Link]]]:  # fmt: skip
    """A server, its address and the links that it accepts."""
    links: asyncio.Queue[Link] = asyncio.Queue()
    server = LinkServer(token, "reader", links.put_nowait, **options)
    address = await server.start()
    try:
        yield server, address, links
    finally:
        await server.aclose()


@asynccontextmanager
async def linked(**options: Any) -> AsyncIterator[tuple[Link, Link]]:
    """Both sides of a link: the one that connected, and the one that accepted."""
    async with serving(**options) as (_, address, links):
        link = await Link.connect(address, TOKEN, "writer", **options)
        other = await links.get()
        try:
            yield link, other
        finally:
            await link.aclose()
            await other.aclose()


def batch(*values: int) -> SharedDataBatch:
    return SharedDataBatch(pl.DataFrame({"n": values}, schema={"n": pl.Int64}))


def inbox(credits: int = 1_000_000) -> Inbox:
    controller = BackpressureController(initial_credits=credits, max_credits=credits)
    return Inbox("reader", controller, MemoryBudget(1 << 40, controller))


class Reader:
    """Stands for a channel of an inbox: takes so many batches as it is allowed to, and notes what comes.

    allowed: batches that it takes before `allow` is called. cancels_after: batches after which it needs no more."""

    def __init__(self, allowed: float = float("inf"), cancels_after: int | None = None) -> None:
        self.inbox = inbox()
        self.allowed, self._cancels_after = allowed, cancels_after
        self.seen: list[list[int] | Mark] = []
        self.batches = 0
        self.cancelled = False
        self.on_cancel: Callable[[], None] = lambda: None
        self.rows_at_once: int | None = None
        self.held_bytes = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def timely_rows(self) -> int | None:
        return self.rows_at_once

    def put(self, mark: Mark) -> None:
        self.seen.append(mark)

    def allow(self, batches: float) -> None:
        self.allowed += batches
        while self._waiting:
            self._waiting.popleft().set_result(None)

    def queues_at_once(self, batch: SharedDataBatch) -> bool:
        self.held_bytes = max(self.held_bytes, self.inbox.budget.channel_bytes)
        if not self.cancelled and self.batches >= self.allowed:
            return False
        if not self.cancelled:
            self.batches += 1
            self.seen.append(batch.frame["n"].to_list())
            if self.batches == self._cancels_after:
                self.cancelled = True
                self.on_cancel()
        return True

    async def queue(self, batch: SharedDataBatch) -> None:
        while not self.queues_at_once(batch):
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting


def joined(link: Link, other: Link, number: int, reader: Reader, **options: Any) -> RemoteChannel:
    """A channel from one side to a reader at the other."""
    Entry(other, number, reader, **options)  # type: ignore[arg-type]
    return RemoteChannel(link, number)


@contextmanager
def peer_process() -> Iterator[tuple[subprocess.Popen[bytes], Address]]:
    """A process that sends back what comes: see `link_peer.py`."""
    command = [sys.executable, str(__file__).replace("link_kit", "link_peer"), TOKEN.decode()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process, ("127.0.0.1", int(process.stdout.readline()))
    finally:
        process.send_signal(signal.SIGCONT)
        process.communicate()
