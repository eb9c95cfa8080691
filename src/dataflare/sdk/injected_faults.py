"""Faults that this process does to itself, as a test or `dataflare chaos` asked for.

`DATAFLARE_FAULTS="kill@17, full@3x2, fail@2, slow@4:0.2, clock@9:-3600"` names them. Three things are counted: the named
places between the steps of the delivery protocol (`sdk.crashpoints`), the calls that make files durable (`os.fsync`,
`os.replace`), and the calls to connectors. A number behind `@` is one of these; with an `s` it is a time in seconds since
the first of them. `DATAFLARE_FAULT_COUNTS=FILE` keeps the counts in a file of memory, where they are after SIGKILL too.

Always true: without the two variables nothing is counted, and a call costs one comparison.
"""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import re
import signal
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from dataflare.errors import Retry, SystemError_
from dataflare.sdk import crashpoints

T = TypeVar("T")

PLACES, FILE_CALLS, CALLS, ELAPSED_US, HAPPENED = range(5)
_COUNTS = struct.Struct("5Q")
_SIZE = 4096

_FORM = re.compile(
    r"(?P<kind>[a-z]+)@(?P<at>\d+(?:\.\d+)?)(?P<timed>s)?(?:x(?P<times>\d+))?(?::(?P<seconds>-?\d+(?:\.\d+)?))?"
)
COUNTED = {
    "kill": PLACES, "pause": PLACES, "clock": PLACES, "full": FILE_CALLS, "fail": CALLS, "slow": CALLS,
}  # fmt: skip
"""By kind of fault that a process does to itself, what is counted for it."""
OF_CALLS = ("full", "fail", "slow")
"""Kinds that happen to a call, and so have its number and never a time."""
OF_NETWORK = ("cut", "hang", "delay")
"""Kinds of faults that a proxy in front of a system does; all of them have a time."""
_MEANING = {
    "kill": "SIGKILL at place {at}",
    "pause": "SIGSTOP for {seconds} s at place {at}",
    "clock": "the clock jumps by {seconds} s at place {at}",
    "full": "no space left on the disk, from file call {at} on, for {times}",
    "fail": "the connection is lost, from call {at} on, for {times}",
    "slow": "calls wait {seconds} s, from call {at} on, for {times}",
    "cut": "all connections are cut after {at}",
    "hang": "nothing passes the network for {seconds} s, after {at}",
    "delay": "each piece of data is {seconds} s late, after {at}",
}


class Fault(Struct, frozen=True):
    """One fault. at: the number of the place or call, from 1; or, with `timed`, seconds. times: how many calls in a row.
    seconds: how long it lasts, or by how much the clock jumps."""

    kind: str
    at: float
    timed: bool = False
    times: int = 1
    seconds: float = 0.0

    def __str__(self) -> str:
        times = f"x{self.times}" if self.times > 1 else ""
        seconds = f":{self.seconds:g}" if self.seconds else ""
        return f"{self.kind}@{self.at:g}{'s' if self.timed else ''}{times}{seconds}"

    @property
    def meaning(self) -> str:
        """The fault in words."""
        at = f"{self.at:g} s" if self.timed else f"{self.at:g}"
        return _MEANING[self.kind].format(at=at, times=self.times, seconds=f"{self.seconds:g}")


def faults_of(text: str) -> tuple[Fault, ...]:
    """The faults of a text such as `kill@17, full@3x2`. Raises ValueError that names the wrong part."""
    return tuple(_fault(part.strip()) for part in text.split(",") if part.strip())


def _fault(text: str) -> Fault:
    form = _FORM.fullmatch(text)
    if form is None or form["kind"] not in _MEANING:
        raise ValueError(
            f"'{text}' is not a fault: write KIND@NUMBER, such as kill@17; kinds are {', '.join(_MEANING)}"
        )
    timed = form["timed"] is not None
    if form["kind"] in OF_NETWORK and not timed:
        raise ValueError(f"'{text}' needs a time: {form['kind']}@0.5s")
    if timed and form["kind"] in OF_CALLS:
        raise ValueError(f"'{text}' needs the number of a call: {form['kind']}@3")
    return Fault(
        form["kind"], float(form["at"]), timed, int(form["times"] or 1), float(form["seconds"] or 0)
    )


class InjectedFaults:
    """Counts, and lets the faults happen. Its methods may be called from any thread."""

    def __init__(self, faults: Sequence[Fault], counts: Path | None = None) -> None:
        self._faults = [each for each in faults if each.kind in COUNTED]
        self._counts = [0] * 5
        self._lock = threading.Lock()
        self._began: float | None = None
        self._memory = None if counts is None else _memory(counts)

    def begin(self) -> None:
        """Take the place of the process's calls. For the rest of the process."""
        crashpoints.observe(self.at_place)
        for name in ("fsync", "replace"):
            setattr(os, name, self._faulty(getattr(os, name)))

    def at_place(self, name: str) -> None:
        """A named place was reached."""
        for fault in self._due(PLACES):
            self._act(fault)

    def calling(self, call: Callable[[], Awaitable[T]], step: str) -> Callable[[], Awaitable[T]]:
        """A call to a connector that may wait, or fail before it is made."""

        async def faulty() -> T:
            for fault in self._due(CALLS):
                if fault.kind == "slow":
                    await asyncio.sleep(fault.seconds)
                else:
                    raise SystemError_(
                        f"step '{step}': the connection was lost (an injected fault)",
                        code="E0607",
                        step=step,
                        retry=Retry.LATER,
                        help="DATAFLARE_FAULTS asks for it",
                    )
            return await call()

        return faulty

    def _faulty(self, real: Callable[..., T]) -> Callable[..., T]:
        def call(*args: object, **options: object) -> T:
            if self._due(FILE_CALLS):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **options)

        return call

    def _due(self, counted: int) -> list[Fault]:
        """Count one more, and say which faults happen now."""
        with self._lock:
            now = time.monotonic()
            if self._began is None:
                self._began = now
                self._start_clocks()
            self._counts[counted] += 1
            self._counts[ELAPSED_US] = int((now - self._began) * 1e6)
            number = self._counts[counted]
            due = [
                each
                for each in self._faults
                if COUNTED[each.kind] == counted
                and not each.timed
                and each.at <= number < each.at + each.times
            ]
            self._counts[HAPPENED] += len(due)
            self._keep()
            return due

    def _start_clocks(self) -> None:
        """For faults with a time. Called with the lock."""
        for fault in self._faults:
            if fault.timed:
                timer = threading.Timer(fault.at, self._act_in_time, (fault,))
                timer.daemon = True
                timer.start()

    def _act_in_time(self, fault: Fault) -> None:
        with self._lock:
            self._counts[HAPPENED] += 1
            self._keep()
        self._act(fault)

    def _act(self, fault: Fault) -> None:
        match fault.kind:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "pause":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "clock":
                _move_clock(fault.seconds)

    def _keep(self) -> None:
        if self._memory is not None:
            _COUNTS.pack_into(self._memory, 0, *self._counts)


def read_counts(path: Path) -> tuple[int, ...]:
    """The counts that a process kept: places, file calls, calls, microseconds, faults that happened."""
    data = path.read_bytes() if path.exists() else b""
    return _COUNTS.unpack_from(data) if len(data) >= _COUNTS.size else (0,) * 5


def _memory(path: Path) -> mmap.mmap:
    path.write_bytes(bytes(_SIZE))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), _SIZE)


def _move_clock(seconds: float) -> None:
    """Let the wall clock of this process be ahead, or behind, from now on."""
    real, real_ns, ahead_ns = time.time, time.time_ns, int(seconds * 1e9)
    time.time = lambda: real() + seconds
    time.time_ns = lambda: real_ns() + ahead_ns


def _of_environment() -> InjectedFaults | None:
    text, counts = os.environ.get("DATAFLARE_FAULTS"), os.environ.get("DATAFLARE_FAULT_COUNTS")
    if text is None and counts is None:
        return None
    injected = InjectedFaults(faults_of(text or ""), Path(counts) if counts else None)
    injected.begin()
    return injected


ACTIVE = _of_environment()
"""The faults of this process; None without any."""
