"""A real rsyslog that forwards messages to ports of this machine: for tests of what takes them.

Tests get one from `server`: each has a configuration of its own, and starts in a moment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from servers.choice import choose

_START_S = 30.0
_HEAD = """\
global(workDirectory="{folder}" {tls})
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{folder}/log" CreatePath="on" ParseTrusted="off" RateLimit.Interval="0")
template(name="old" type="string" string="<%PRI%>%TIMESTAMP% %HOSTNAME% %syslogtag%%msg:::sp-if-no-1st-sp%%msg%")
"""


class Rsyslog:
    """`socket` is where local programs log."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self._binary, self.folder = binary, folder
        self.socket = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, actions: Sequence[str], ca: Path | None = None) -> None:
        """actions: what is done with each message, as rsyslog's configuration has it."""
        tls = "" if ca is None else f'DefaultNetstreamDriverCAFile="{ca}"'
        lines = [_HEAD.format(folder=self.folder, tls=tls), *actions]
        (self.folder / "rsyslog.conf").write_text("\n".join(lines) + "\n")
        self._process = subprocess.Popen(
            [self._binary, "-n", "-f", self.folder / "rsyslog.conf", "-i", self.folder / "pid"],
            stdout=subprocess.DEVNULL, stderr=(self.folder / "errors").open("wb"),
        )  # fmt: skip
        end = time.monotonic() + _START_S
        while not self.socket.exists():
            assert self._process.poll() is None, (self.folder / "errors").read_text()
            assert time.monotonic() < end, "rsyslog does not start"
            time.sleep(0.02)

    def log(self, texts: Sequence[str]) -> None:
        """Log as a local program does."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.connect(str(self.socket))
            for text in texts:
                out.send(text.encode())

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _found() -> Path | None:
    found = shutil.which("rsyslogd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    return Path(found) if found else None


@contextlib.contextmanager
def server() -> Iterator[Rsyslog]:
    """One that is not started yet."""
    binary = choose("rsyslog", _found, "rsyslog-gnutls")
    assert binary is not None
    folder = Path(tempfile.mkdtemp(prefix="dataflare-rsyslog-"))
    made = Rsyslog(binary, folder)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)
