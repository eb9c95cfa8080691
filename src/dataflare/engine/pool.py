"""The worker pool: where batches are computed, so that the event loop never stalls.

A hand-over costs about 100 microseconds; inline work of more than a millisecond makes every other
task of the process wait. So small batches run inline and the others here.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TypeVar

from dataflare.sdk.threads import ThreadsOfRun

T = TypeVar("T")

INLINE_ROWS = 500
INLINE_BYTES = 256 << 10
_WAITING_MAX = 32
SPARE_THREADS = 2
"""Beyond one for each processor: a query also waits, for Polars' own pool and for the event loop. With
one to spare 1.8 of two processors are busy, with two 1.9; more take memory."""


class ThreadPool:
    """A few threads for Polars, which releases the GIL; blocking clients have threads of their own."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.read_ahead = threads + 1
        """How many chunks a reader has at a time: one for each thread, and one that waits for them."""
        self._pool = ThreadsOfRun(threads)
        self._others: list[ThreadPool] = []

    def submit(self, function: Callable[..., T], *args: object) -> asyncio.Future[T]:
        """Start the call on a thread, inside of the run's context; awaiting it gives the result."""
        call = contextvars.copy_context().run
        return asyncio.get_running_loop().run_in_executor(self._pool, call, function, *args)

    def is_inline(self, rows: int) -> bool:
        """Whether `run` makes a call for so many rows on this thread."""
        return rows < INLINE_ROWS

    async def run(self, rows: int, function: Callable[..., T], *args: object) -> T:
        """The result of a call that handles about `rows` rows: inline when they are few."""
        if rows < INLINE_ROWS:
            return function(*args)
        return await self.submit(function, *args)

    def waiting(self) -> ThreadPool:
        """A pool of many threads, for work that mostly waits for a system. Closed with this one."""
        made = _WaitingPool(_WAITING_MAX)
        self._others.append(made)
        return made

    def ease(self, share: float) -> None:
        """Let only a share of the threads work from now on, at least one. share: 1.0 for all."""
        self._pool.allow(int(self.threads * share))
        self.read_ahead = self.threads + 1 if share >= 1.0 else 1
        for other in self._others:
            other.ease(share)

    def close(self, *, wait: bool = False) -> None:
        """Take no calls any more. wait: return when all calls are done."""
        for other in self._others:
            other.close(wait=wait)
        self._pool.shutdown(wait=wait, cancel_futures=True)


class _WaitingPool(ThreadPool):
    """Nothing runs inline: not even few rows may stall the event loop that they wait for."""

    def is_inline(self, rows: int) -> bool:
        return False

    async def run(self, rows: int, function: Callable[..., T], *args: object) -> T:
        return await self.submit(function, *args)
