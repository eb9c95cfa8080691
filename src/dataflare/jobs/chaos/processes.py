"""One attempt of a run: a process with faults, and the proxies in front of its systems.

Always true: the process has ended when `run` returns; a process that SIGSTOP has paused goes on after its time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from dataflare.jobs.chaos.fault_proxy import NO_FAULTS, FaultProxy, Faults
from dataflare.sdk.injected_faults import COUNTED, OF_NETWORK, Fault, read_counts

_LOOK_S = 0.01
_ERRORS_MAX = 20_000


class Command(Struct, frozen=True):
    """The command line of a run. words: up to the workflow file and its options. name: of the workflow."""

    words: Sequence[str]
    name: str


class Attempt(Struct, frozen=True):
    """How an attempt ended. status: as of `subprocess`; None: it did not end in time, and was killed. happened: how many
    of its faults happened. counts: places, file calls, calls, microseconds. errors: what it wrote to standard error."""

    status: int | None
    errors: str
    counts: tuple[int, ...]
    happened: int
    seconds: float


class Proxies:
    """A proxy for each system, for all runs."""

    def __init__(self, targets: Sequence[tuple[str, int]], seed: int = 0) -> None:
        self._proxies = {
            target: FaultProxy(*target, seed=seed) for target in dict.fromkeys(targets)
        }

    def __enter__(self) -> Proxies:
        for proxy in self._proxies.values():
            proxy.start()
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in self._proxies.values():
            proxy.close()

    def __bool__(self) -> bool:
        return bool(self._proxies)

    def port(self, target: tuple[str, int]) -> int:
        return self._proxies[target].port

    @property
    def connections(self) -> int:
        return sum(proxy.connections for proxy in self._proxies.values())

    def act(self, fault: Fault) -> None:
        """Let a fault begin."""
        for proxy in self._proxies.values():
            match fault.kind:
                case "cut":
                    proxy.reset()
                case "hang":
                    proxy.hang()
                case "delay":
                    proxy.faults = Faults(delay_s=fault.seconds)

    def go_on(self) -> None:
        """Let bytes pass again after a hang. Other faults go on."""
        for proxy in self._proxies.values():
            proxy.go_on()

    def clear(self) -> None:
        """End all faults, at the end of an attempt."""
        for proxy in self._proxies.values():
            proxy.faults = NO_FAULTS
            proxy.go_on()


class _Network:
    """The faults of the network of one attempt, in the order of their time. It begins with the first connection."""

    def __init__(self, faults: Sequence[Fault], proxies: Proxies) -> None:
        self._proxies = proxies
        self._due = sorted(
            (each for each in faults if each.kind in OF_NETWORK), key=lambda each: each.at
        )
        self._before = proxies.connections
        self._began: float | None = None
        self._hangs_until: float | None = None
        self.happened = 0

    def look(self) -> None:
        now = time.monotonic()
        if self._began is None and self._proxies.connections > self._before:
            self._began = now
        if self._hangs_until is not None and now >= self._hangs_until:
            self._hangs_until = None
            self._proxies.go_on()
        while self._due and self._began is not None and now - self._began >= self._due[0].at:
            fault = self._due.pop(0)
            self._proxies.act(fault)
            self.happened += 1
            if fault.kind == "hang":
                self._hangs_until = max(self._hangs_until or 0.0, now + fault.seconds)


def run(
    words: Sequence[str],
    folder: Path,
    faults: Sequence[Fault],
    proxies: Proxies,
    environment: Mapping[str, str],
    timeout_s: float,
) -> Attempt:
    """Run a command with faults. folder: for its counts and its errors. environment: variables for it alone."""
    counts_file, errors_file = folder / "counts", folder / "errors"
    own = [each for each in faults if each.kind in COUNTED]
    variables = {
        **{name: value for name, value in os.environ.items() if name != "DATAFLARE_HOME"},
        **environment,
        "DATAFLARE_FAULTS": ", ".join(map(str, own)),
        "DATAFLARE_FAULT_COUNTS": str(counts_file),
    }
    counts_file.unlink(missing_ok=True)
    pauses = [each.seconds for each in own if each.kind == "pause"]
    network = _Network(faults, proxies)
    started = time.monotonic()
    with errors_file.open("wb") as errors:
        process = subprocess.Popen(
            words, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
            start_new_session=True,
        )  # fmt: skip
        try:
            status = _wait(process, network, pauses, started + timeout_s)
        finally:
            _end(process)
            if proxies:
                proxies.clear()
    counts = read_counts(counts_file)
    text = errors_file.read_bytes()[-_ERRORS_MAX:].decode("utf-8", "replace")
    return Attempt(
        status, text, counts[:4], counts[4] + network.happened, time.monotonic() - started
    )


def _wait(
    process: subprocess.Popen[bytes], network: _Network, pauses: list[float], deadline: float
) -> int | None:
    """The status of a process; None where it does not end in time."""
    go_on_at: float | None = None
    while time.monotonic() < deadline:
        status = process.poll()
        if status is not None:
            return status
        now = time.monotonic()
        if go_on_at is None and _is_stopped(process.pid):
            go_on_at = now + (pauses.pop(0) if pauses else 0.0)
        elif go_on_at is not None and now >= go_on_at:
            os.kill(process.pid, signal.SIGCONT)
            go_on_at = None
        network.look()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_S)
    return None


def _is_stopped(pid: int) -> bool:
    asked = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
    try:
        return os.waitid(os.P_PID, pid, asked) is not None
    except ChildProcessError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and those that it started, if they are there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
