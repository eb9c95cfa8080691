"""A server that is one process of this machine: started, waited for, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

_START_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def process(command: Sequence[str | Path], url: str, **environment: str) -> Iterator[Path]:
    """A running server, in a new folder that is removed afterwards. url: answers, whatever, when it is ready."""
    with tempfile.TemporaryDirectory(prefix="dataflare-server-") as name:
        folder = Path(name)
        with open(folder / "server.log", "wb") as log:
            made = subprocess.Popen(
                [str(each).replace("{folder}", name) for each in command], cwd=folder,
                env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            _wait(made, url, folder)
            yield folder
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(made.pid, signal.SIGKILL)
            made.wait()


def _wait(made: subprocess.Popen[bytes], url: str, folder: Path) -> None:
    end = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            if time.monotonic() > end or made.poll() is not None:
                said = (folder / "server.log").read_text(errors="replace")[-3000:]
                pytest.fail(f"{made.args} does not answer:\n{said}")
            time.sleep(0.05)
