"""SIGINT and SIGTERM stop a run after a checkpoint, the second one ends the process at once.

Always true: the second one works also while the main thread is inside a library for long, so a thread
of its own listens, to what Python's signal handler writes before any Python code runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

INTERRUPTED_STATUS = 130
_CAUGHT = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop`, on this event loop, at the first signal while this is open. Does nothing outside
    the main thread, where signals cannot be caught."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    heard, written = socket.socketpair()
    written.setblocking(False)

    def listen() -> None:
        count = 0
        while numbers := heard.recv(16):
            signals = sum(number in _CAUGHT for number in numbers)
            count += signals
            if count > 1:
                os._exit(INTERRUPTED_STATUS)
            if signals:
                loop.call_soon_threadsafe(stop)

    before = {number: signal.getsignal(number) for number in _CAUGHT}
    listener = threading.Thread(target=listen, name="dataflare-signals", daemon=True)
    listener.start()
    old = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    for each in _CAUGHT:
        signal.signal(each, lambda number, frame: None)
    try:
        yield
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        written.close()
        listener.join()
        heard.close()
