"""Several futures at a time: the first that is done, and letting go of those that are not needed any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any


async def first_of(waiting: Sequence[asyncio.Future[Any]]) -> None:
    """Wait until one is done; cancels nothing and raises nothing."""
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)


async def abandon(reading: list[asyncio.Future[Any]], computing: list[asyncio.Future[Any]]) -> None:
    """Let go of what is under way when the task ends early: reads are cancelled, work on threads
    is left to finish and its result dropped."""
    for future in reading:
        if not future.done():
            future.cancel()
    for future in computing:
        future.add_done_callback(_dropped)
    for future in reading:
        if future.done() and not future.cancelled():
            future.exception()


_dropped: Callable[[asyncio.Future[Any]], None] = lambda future: (  # noqa: E731
    None if future.cancelled() else (future.exception(), None)[1]
)
