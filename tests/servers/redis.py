"""A real Redis server for tests: on a private loopback port, thrown away afterwards, killed and started
again on demand.

Use: `redis_server = pytest.fixture(scope="session")(running)` in a conftest. Without Redis a test is
skipped, but never where `CI` is true: there it fails, and says what to install.
"""

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "s3cret-Pass-w0rd"
_START_S = 30.0
_INSTALL = "install it (apt-get install redis-server), or put redis-server on PATH"


class RedisServer:
    """One server process. `url` says how to reach it. tls: whether it speaks nothing but TLS, with a
    certificate for localhost made for the occasion, `certificate`."""

    def __init__(self, binary: str, folder: Path, *, tls: bool = False) -> None:
        self.binary, self.folder, self.tls = binary, folder, tls
        self.certificate = folder / "server.crt"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        if tls:
            make_certificate(self.certificate, folder / "server.key")
            self.url = (
                f"rediss://:{PASSWORD}@localhost:{self.port}/0?ssl_ca_certs={self.certificate}"
            )
        self._process: subprocess.Popen[bytes] | None = None

    def client(self) -> Any:
        import redis

        return redis.Redis.from_url(self.url)

    def start(self) -> None:
        """Start, also after `kill`, and wait until it answers."""
        import redis

        port = ["--port", str(self.port)]
        if self.tls:
            port = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no",
                    "--tls-cert-file", str(self.certificate),
                    "--tls-key-file", str(self.folder / "server.key")]  # fmt: skip
        self._process = subprocess.Popen(
            [self.binary, *port, "--bind", "127.0.0.1", "--save", "",
             "--requirepass", PASSWORD, "--dir", str(self.folder)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        end = time.monotonic() + _START_S
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except (redis.ConnectionError, redis.TimeoutError):
                if time.monotonic() > end or self._process.poll() is not None:
                    raise
                time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL, as when the machine dies. What it held is gone."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The server hangs: it is there, and answers nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)


def make_certificate(certificate: Path, key: Path) -> None:
    """A certificate for localhost, signed by itself."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", str(key), "-out", str(certificate)], capture_output=True, check=True,
    )  # fmt: skip


def _binary() -> str | None:
    found = shutil.which("redis-server")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        # The package would start a server of its own on the usual port.
        environment["RUNLEVEL"] = "1"
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", "redis-server"]):
            subprocess.run(
                ["apt-get", "-q", *arguments], env=environment, capture_output=True, timeout=600
            )
        found = shutil.which("redis-server")
    return found


@contextlib.contextmanager
def server(*, tls: bool = False) -> Iterator[RedisServer]:
    """A running server, removed afterwards. Raises pytest's own outcomes."""
    binary = _binary()
    if binary is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no Redis on this machine: {_INSTALL}")
        pytest.skip(f"no Redis on this machine: {_INSTALL}")
    folder = Path(tempfile.mkdtemp(prefix="dataflare-redis-"))
    made = RedisServer(binary, folder, tls=tls)
    atexit.register(made.kill)
    try:
        made.start()
        yield made
    finally:
        made.kill()
        atexit.unregister(made.kill)
        shutil.rmtree(folder, ignore_errors=True)


def running() -> Iterator[RedisServer]:
    """The body of a session fixture."""
    with server() as made:
        yield made
