"""A ClickHouse for tests: the real engine, in the package chDB, behind an HTTP server of the tests.

The SQL, the types, the formats and the table engines are ClickHouse's own. The HTTP interface is not: see
`servers.clickhouse_front` for what it has. There is no Keeper, so no replicated table.

Always true: it listens on loopback alone; its data is in a folder of its own, and is there after `kill` and
`start`; it ends with the process that started it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from servers import fetch
from servers.certificates import make_certificate

VERSION = "26.9.0"
PASSWORD = "s3cret-Pass/w0rd@ü"
USER = "tester"
_START_S = 60.0


class ClickhouseServer:
    """One server. `dsn()` says how to reach it. secure_port: with TLS."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.secure_port = _free_port(), _free_port()
        self.certificate, self._key = folder / "server.crt", folder / "server.key"
        make_certificate(self.certificate, self._key, "DNS:localhost,IP:127.0.0.1")
        self._process: subprocess.Popen[bytes] | None = None

    def dsn(
        self,
        database: str = "default",
        *,
        user: str = USER,
        password: str = PASSWORD,
        host: str = "127.0.0.1",
        port: int | None = None,
        **options: str,
    ) -> str:
        """A connection string. options: after the question mark."""
        where = (
            f"clickhouse://{user}:{quote(password, safe='')}@{host}:{port or self.port}/{database}"
        )
        return f"{where}?{urlencode(options)}" if options else where

    def ask(self, sql: str, **params: Any) -> str:
        """A plain client's request."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/?{urlencode(params)}",
            data=sql.encode(),
            headers={
                "X-ClickHouse-User": USER,
                "X-ClickHouse-Key": PASSWORD.encode().decode("latin-1"),
            },
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.read().decode())

    def start(self) -> None:
        """Start, also after `kill`, and wait until it answers."""
        assert self._process is None
        engine = fetch.pip("chdb-core", VERSION)
        front = Path(__file__).with_name("clickhouse_front.py")
        arguments = [str(self.folder / "data"), str(self.port), str(self.secure_port),
                     str(self.certificate), str(self._key)]  # fmt: skip
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(front), *arguments],
                env={**os.environ, "PYTHONPATH": str(engine), "FRONT_USER": USER,
                     "FRONT_PASSWORD": PASSWORD},
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + _START_S
        while True:
            try:
                self.ask("select 1")
                return
            except OSError:
                process = self._process
                if time.monotonic() > end or process is None or process.poll() is not None:
                    print((self.folder / "server.log").read_text()[-3000:])
                    raise
                time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, as when the machine dies."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()

    def pause(self) -> None:
        """The server hangs: it is there, and answers nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """After `pause`."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server() -> Iterator[ClickhouseServer]:
    """A running server in a new folder, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="dataflare-clickhouse-"))
    made = ClickhouseServer(folder)
    atexit.register(made.kill)
    try:
        made.start()
        yield made
    finally:
        made.kill()
        atexit.unregister(made.kill)
        shutil.rmtree(folder, ignore_errors=True)
