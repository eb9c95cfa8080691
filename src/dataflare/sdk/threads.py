"""Blocking calls beside the event loop: runs share threads, and each waits for its own calls.

Several runs may share an event loop. A run waits for its own calls before it ends, so that a write of a
failed attempt does not meet what the next attempt does to the same file. A thousand runs that mostly wait
need few threads, so a thread that has no work is taken by any of them. No run waits for a thread of another:
only the calls of one run are limited in number.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

_BLOCKING_MAX = min(32, (os.cpu_count() or 1) + 4)
"""How many blocking calls a run makes at a time."""
_SHARED = ThreadPoolExecutor(max_workers=100_000, thread_name_prefix="dataflare")
"""Starts a thread only when none is idle."""
_THREADS: contextvars.ContextVar[Executor | None] = contextvars.ContextVar("threads", default=None)


class ThreadsOfRun(Executor):
    """At most `threads` of the shared threads at a time, or as many as are allowed since."""

    def __init__(self, threads: int) -> None:
        self._most = threads
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._busy = 0
        self._closed = False
        self._changed = threading.Condition()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        call = partial(fn, *args, **kwargs)
        with self._changed:
            if self._closed:
                raise RuntimeError("these threads take no calls any more")
            if self._busy >= self._most:
                self._waiting.append((future, call))
                return future
            self._busy += 1
        _SHARED.submit(self._work, future, call)
        return future

    def allow(self, threads: int) -> None:
        """Make so many calls at a time from now on, at least one. Those that have begun go on."""
        begun = []
        with self._changed:
            self._most = max(1, threads)
            while self._waiting and self._busy < self._most:
                self._busy += 1
                begun.append(self._waiting.popleft())
        for future, call in begun:
            _SHARED.submit(self._work, future, call)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no calls any more. wait: return when all calls are done."""
        with self._changed:
            self._closed = True
            if cancel_futures:
                while self._waiting:
                    self._waiting.popleft()[0].cancel()
            while wait and self._busy:
                self._changed.wait()

    def _work(self, future: Future[Any], call: Callable[[], Any]) -> None:
        """Make this call, and then those that wait."""
        while True:
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            del future, call
            with self._changed:
                if not self._waiting or self._busy > self._most:
                    self._busy -= 1
                    self._changed.notify_all()
                    return
                future, call = self._waiting.popleft()


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of a blocking call, made on a thread beside the event loop. The run that awaits it waits for
    the call before it ends, also if it does not wait for the result."""
    call = partial(contextvars.copy_context().run, function, *args, **kwargs)
    executor = _THREADS.get() or _SHARED
    return await asyncio.get_running_loop().run_in_executor(executor, call)


@contextmanager
def threads_of_run(executor: Executor) -> Iterator[None]:
    """Make the calls of this task, and of tasks started by it, on threads of `executor`."""
    token = _THREADS.set(executor)
    try:
        yield
    finally:
        _THREADS.reset(token)


@asynccontextmanager
async def own_threads() -> AsyncIterator[None]:
    """Make the blocking calls inside on threads of their own limit. At the end the calls that wait are dropped, and
    those that have begun are waited for: also when the caller is cancelled."""
    blocking = ThreadsOfRun(_BLOCKING_MAX)
    try:
        with threads_of_run(blocking):
            yield
    finally:
        await completed(in_thread(blocking.shutdown, wait=True, cancel_futures=True))


async def completed(awaitable: Awaitable[T]) -> T:
    """The result of an awaitable that always comes to its end. If the caller is cancelled meanwhile, CancelledError
    is raised after that. For what must be closed."""
    future = asyncio.ensure_future(awaitable)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return future.result()
    if not future.cancelled():
        future.exception()
    raise cancelled
