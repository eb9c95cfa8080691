"""Blocking calls beside the event loop: each run has threads of its own for them.

Several runs may share an event loop. A run waits for its own calls before it ends, so that a write of a
failed attempt does not meet what the next attempt does to the same file.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

_THREADS: contextvars.ContextVar[Executor | None] = contextvars.ContextVar("threads", default=None)


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of a blocking call, made on a thread of the run that awaits it. Outside of a run a thread of
    the event loop is taken, as `asyncio.to_thread` does."""
    call = partial(contextvars.copy_context().run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_THREADS.get(), call)


@contextmanager
def threads_of_run(executor: Executor) -> Iterator[None]:
    """Make the calls of this task, and of tasks started by it, on threads of `executor`."""
    token = _THREADS.set(executor)
    try:
        yield
    finally:
        _THREADS.reset(token)
