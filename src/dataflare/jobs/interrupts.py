"""SIGINT and SIGTERM stop a run after a checkpoint. A second signal ends the process at once.

Always true: the second signal also works while the main thread is inside a library for a long time. So
another thread reads the bytes that Python's C signal handler writes to the wakeup descriptor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from dataflare.sdk.threads import completed
from dataflare.sdk.user_exits import kept_inside

INTERRUPTED_STATUS = 130
_CAUGHT = (signal.SIGINT, signal.SIGTERM)
_LEAVING_S = 2.0
"""How long work that was left may take to end."""

T = TypeVar("T")


class LeftEarly(Exception):
    """A run was stopped before it read anything."""


async def unless_left(
    leave: asyncio.Event, work: Awaitable[T], *, is_begun: Callable[[], bool] = lambda: False
) -> T:
    """The result of work that comes before rows are read. Where `leave` is set meanwhile, the work is cancelled and
    LeftEarly is raised: also if a call of it hangs. is_begun: whether it reads rows now; then it ends by itself."""
    working = asyncio.ensure_future(kept_inside(work))
    leaving = asyncio.ensure_future(leave.wait())
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if working.done() or is_begun():
            return await working
        working.cancel()
        done, _ = await asyncio.wait([working], timeout=_LEAVING_S)
        if done and not working.cancelled() and working.exception() is None:
            return working.result()
        raise LeftEarly
    except asyncio.CancelledError:
        working.cancel()
        await completed(asyncio.gather(working, return_exceptions=True))
        raise
    finally:
        leaving.cancel()


async def happens_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether an event happens before a wait is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


@contextlib.contextmanager
def interruptible(
    stop: Callable[[], None], *, now: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Call `stop` on this event loop at the first signal inside the `with` block; `now` at the second, before the process
    ends. Does nothing outside of the main thread, because signals cannot be caught there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    reading_end, writing_end = socket.socketpair()
    writing_end.setblocking(False)

    def listen() -> None:
        count = 0
        while numbers := reading_end.recv(16):
            signals = sum(number in _CAUGHT for number in numbers)
            count += signals
            if count > 1:
                try:
                    now()
                finally:
                    os._exit(INTERRUPTED_STATUS)
            if signals:
                loop.call_soon_threadsafe(stop)

    handlers = {number: signal.getsignal(number) for number in _CAUGHT}
    listener = threading.Thread(target=listen, name="dataflare-signals", daemon=True)
    listener.start()
    old_descriptor = signal.set_wakeup_fd(writing_end.fileno(), warn_on_full_buffer=False)
    for each in _CAUGHT:
        signal.signal(each, lambda number, frame: None)
    try:
        yield
    finally:
        signal.set_wakeup_fd(old_descriptor)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        writing_end.close()
        listener.join()
        reading_end.close()
