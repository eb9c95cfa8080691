"""A server that is one process of this machine: started, killed, stopped for a while, thrown away."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from servers.choice import WAYS, installed

USER, PASSWORD = "tester", "s3cret-Pass-w0rd"
GUEST = "guest-without-rights"
"""May log in, with the same password, and has no rights."""
_START_S = 240.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ProcessServer(ABC):
    """folder: of its own. What it keeps there lives over `kill` and `start`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """What is run."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it takes connections."""

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def start(self) -> None:
        """Start, also after `kill`, and wait until it answers."""
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env=self.environment(), start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + _START_S
        while not self.answers():
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError((self.folder / "server.log").read_text()[-2000:])
            time.sleep(0.03)

    def kill(self) -> None:
        """SIGKILL, to all its processes, as when the machine dies."""
        self._signal(signal.SIGKILL)
        process, self._process = self._process, None
        if process is not None:
            process.wait()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """It hangs: it is there, and answers nothing."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def program(title: str, name: str, package: str, folders: tuple[str, ...] = ()) -> Path:
    """A program of this machine; as root on Debian its package is installed. Raises pytest's own outcomes."""
    way = os.environ.get("TEST_SERVERS", "")
    if way not in WAYS:
        pytest.fail(f"TEST_SERVERS is {way!r}, and can be local or docker")
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", *folders])
    found = shutil.which(name, path=path)
    if found is None and installed(package):
        found = shutil.which(name, path=path)
    if found is not None:
        return Path(found)
    needed = (
        f"no {title} on this machine: install it (apt-get install {package}), or put it on PATH"
    )
    if os.environ.get("CI") == "true":
        pytest.fail(needed)
    pytest.skip(needed)


_Server = TypeVar("_Server", bound=ProcessServer)


@contextlib.contextmanager
def thrown_away(made: type[_Server], prefix: str, *given: object) -> Iterator[_Server]:
    """A running server, removed afterwards. given: what it is made of, after its folder."""
    folder = Path(tempfile.mkdtemp(prefix=f"dataflare-{prefix}-"))
    server = made(folder, *given)
    atexit.register(server.kill)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        atexit.unregister(server.kill)
        shutil.rmtree(folder, ignore_errors=True)
