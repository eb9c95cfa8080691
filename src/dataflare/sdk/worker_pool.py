"""Processes that make calls for this one, each call alone in its process.

A call that hangs, takes too much memory or kills its process costs that process and nothing else: the future of the
call has the error, and another process takes the place.

Always true: a process has one call at a time; calls begin in the order in which they were submitted; a call is made once;
the time and the memory of a call are its own: that a process starts, and imports what the call needs, is not counted against it; processes are spawned, never forked, and end with their parent.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal, TypeVar

from msgspec import Struct

from dataflare.sdk.process_memory import rss_bytes

T = TypeVar("T")

_CONTEXT = multiprocessing.get_context("spawn")
_LOOK_S = 0.1
"""How often the memory of a process is read."""
_END_S = 5.0
START_S = 300.0
"""How long a process may take until it is ready for a call that has a time limit."""


class WorkerLost(Exception):
    """The process of a call is gone before it answered. why: died, hung or memory; message: in words. is_ready: whether
    the call had begun."""

    def __init__(
        self, why: Literal["died", "hung", "memory"], message: str, *, is_ready: bool = True
    ) -> None:
        super().__init__(message)
        self.why, self.message, self.is_ready = why, message, is_ready


class Worker(Struct, frozen=True):
    """A process. pid: None before it has started. busy_s: how long its call has taken; None: it has none. rss_bytes: its
    memory, None where the system does not say. calls: how many it has made."""

    pid: int | None
    busy_s: float | None
    rss_bytes: int | None
    calls: int


class Health(Struct, frozen=True):
    """size: how many processes there may be. waiting: calls without one. lost: processes that were lost so far."""

    size: int
    workers: tuple[Worker, ...]
    waiting: int
    lost: int


class _Call(Struct):
    future: Future[Any]
    function: Callable[[], Any]
    prepare: Callable[[], object] | None
    timeout_s: float | None
    memory_max: int | None


class WorkerPool:
    """Up to `size` processes, started when they are needed. Its methods may be called from any thread."""

    def __init__(self, size: int) -> None:
        self._size = _checked(size)
        self._calls: deque[_Call] = deque()
        self._slots: list[_Slot] = []
        self._idle = self._lost = 0
        self._closed = False
        self._changed = threading.Condition()
        atexit.register(self._kill)

    def submit(
        self,
        function: Callable[..., T],
        *args: object,
        prepare: Callable[[], object] | None = None,
        timeout_s: float | None = None,
        memory_max: int | None = None,
    ) -> Future[T]:
        """Call a function of a module, with arguments that can be pickled, in a process. The future has its result, what
        it raised, or WorkerLost. prepare: called before, in the same process; what it raises is what the call raised.
        timeout_s: how long the call may take once it is prepared; until then the process has START_S. memory_max: how many
        bytes its process may have, where the system says how many it has."""
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("these workers take no calls any more")
            call = partial(function, *args)
            self._calls.append(_Call(future, call, prepare, timeout_s, memory_max))
            if self._idle < len(self._calls) and len(self._slots) < self._size:
                self._slots.append(_Slot(self))
            self._changed.notify()
        return future

    def resize(self, size: int) -> None:
        """Have so many processes from now on. Those that are too many end after their call."""
        with self._changed:
            self._size = _checked(size)
            more = min(len(self._calls) - self._idle, self._size - len(self._slots))
            self._slots += [_Slot(self) for _ in range(more)]
            self._changed.notify_all()

    def health(self) -> Health:
        with self._changed:
            workers = tuple(slot.worker() for slot in self._slots)
            return Health(self._size, workers, len(self._calls), self._lost)

    def close(self, *, wait: bool = True, timeout_s: float | None = None) -> None:
        """Take no calls any more, and cancel those that wait. wait: let calls that run come to their end, for
        `timeout_s` at most; then all processes are ended."""
        with self._changed:
            self._closed = True
            while self._calls:
                self._calls.popleft().future.cancel()
            self._changed.notify_all()
            if wait:
                self._changed.wait_for(lambda: not self._slots, timeout_s)
            slots = list(self._slots)
        for slot in slots:
            slot.kill()
        for slot in slots:
            slot.thread.join()
        atexit.unregister(self._kill)

    def _kill(self) -> None:
        self.close(wait=False)

    # -- for the slots -----------------------------------------------------------------------------

    def next_call(self, slot: _Slot) -> _Call | None:
        """A call for a slot, which waits for it; None: it is to end."""
        with self._changed:
            self._idle += 1
            try:
                self._changed.wait_for(lambda: self._calls or self._is_to_end())
                while self._calls and not self._is_to_end():
                    call = self._calls.popleft()
                    if call.future.set_running_or_notify_cancel():
                        return call
                    self._changed.wait_for(lambda: self._calls or self._is_to_end())
            finally:
                self._idle -= 1
            # Here, with the lock, so that no two slots end for one that is too many.
            self._slots.remove(slot)
            self._changed.notify_all()
            return None

    def _is_to_end(self) -> bool:
        return self._closed or len(self._slots) > self._size

    def count_lost(self) -> None:
        with self._changed:
            self._lost += 1


class _Slot:
    """The place of one process, and the thread that gives it calls."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._began: float | None = None
        self._calls = 0
        self._is_killed = False
        self.thread = threading.Thread(target=self._run, name="dataflare-worker", daemon=True)
        self.thread.start()

    def worker(self) -> Worker:
        process, began = self._process, self._began
        pid = None if process is None else process.pid
        busy_s = None if began is None else time.monotonic() - began
        return Worker(pid, busy_s, None if pid is None else rss_bytes(pid), self._calls)

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._is_killed = True
        process = self._process
        if process is not None:
            process.kill()

    def _run(self) -> None:
        while (call := self._pool.next_call(self)) is not None:
            self._began = time.monotonic()
            try:
                result = self._answer(call)
            except BaseException as error:
                outcome = partial(call.future.set_exception, error)
            else:
                outcome = partial(call.future.set_result, result)
            self._began, self._calls = None, self._calls + 1
            outcome()
            del call, outcome
        self._end()

    def _answer(self, call: _Call) -> Any:
        data = pickle.dumps((call.prepare, call.function))
        process, pipe = self._started()
        start_s = None if call.timeout_s is None else START_S
        is_ready = False
        try:
            pipe.send_bytes(data)
            answer = self._received(process, pipe, start_s, call.memory_max, is_ready)
            if answer == _READY:
                is_ready = True
                answer = self._received(process, pipe, call.timeout_s, call.memory_max, is_ready)
        except (EOFError, OSError):
            raise self._gone(process, is_ready) from None
        is_result, value = pickle.loads(answer)
        if is_result:
            return value
        raise value

    def _received(
        self,
        process: BaseProcess,
        pipe: Connection,
        timeout_s: float | None,
        memory_max: int | None,
        is_ready: bool,
    ) -> bytes:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            look_s = None if memory_max is None else _LOOK_S
            if wait([pipe], min((s for s in (left_s, look_s) if s is not None), default=None)):
                return pipe.recv_bytes()
            if deadline is not None and time.monotonic() >= deadline:
                lost = WorkerLost("hung", f"took longer than {timeout_s:g} s", is_ready=is_ready)
                raise self._ended(process, lost)
            rss = rss_bytes(process.pid or 0)
            if memory_max is not None and rss is not None and rss > memory_max:
                took = f"took {rss >> 20} MiB of memory, more than {memory_max >> 20} MiB"
                raise self._ended(process, WorkerLost("memory", took, is_ready=is_ready))

    def _started(self) -> tuple[BaseProcess, Connection]:
        """The process, a new one where there is none or where it has died without a call."""
        if self._process is not None and self._pipe is not None:
            # An idle process sends nothing: a pipe with something to read has ended.
            if self._process.is_alive() and not self._pipe.poll():
                return self._process, self._pipe
            self._forget()
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=_work, args=(theirs,), daemon=False)
        process.start()
        theirs.close()
        self._process, self._pipe = process, ours
        if self._is_killed:
            process.kill()
        return process, ours

    def _gone(self, process: BaseProcess, is_ready: bool) -> WorkerLost:
        process.join()
        self._pool.count_lost()
        self._forget()
        return WorkerLost("died", f"died of {_cause(process.exitcode)}", is_ready=is_ready)

    def _ended(self, process: BaseProcess, lost: WorkerLost) -> WorkerLost:
        process.kill()
        process.join()
        self._pool.count_lost()
        self._forget()
        return lost

    def _forget(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _end(self) -> None:
        """Let the process end: it waits for a call, or was killed."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.join(_END_S)
            self._process.kill()
            self._process.join()


def _checked(size: int) -> int:
    if size < 1:
        raise ValueError(f"a pool has at least one worker, not {size}")
    return size


def _cause(status: int | None) -> str:
    if status is not None and status < 0:
        return f"the signal {signal.Signals(-status).name}"
    return f"its exit with status {status}"


# -- in the process --------------------------------------------------------------------------------

_READY = b""
"""Told before a call begins: all that it needs is imported."""


def _work(pipe: Connection) -> None:
    """Make calls until the pipe is closed."""
    # An interrupt from the terminal reaches all processes; the parent decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    while True:
        try:
            data = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        pipe.send_bytes(_outcome(data, pipe))


def _outcome(data: bytes, pipe: Connection) -> bytes:
    try:
        prepare, function = pickle.loads(data)
        if prepare is not None:
            prepare()
        pipe.send_bytes(_READY)
        return pickle.dumps((True, function()))
    except BaseException as error:
        try:
            answer = pickle.dumps((False, error))
            pickle.loads(answer)
        except Exception:
            return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
        return answer


def _end_with_parent() -> None:
    """Let this process end when its parent ends, however that happens: one that makes a call does not notice, and would
    hold the standard output that it has from its parent."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="dataflare-parent", daemon=True).start()
