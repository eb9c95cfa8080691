"""A real Redis server for tests: on a private loopback port, thrown away afterwards, killed and started
again on demand.

Tests get one from `servers.services.running`. Where it comes from, and what happens without one:
`servers.choice`.
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
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from servers.certificates import make_certificate
from servers.choice import choose
from servers.compose import Service

PASSWORD = "s3cret-Pass-w0rd"
_START_S = 30.0


class RedisServer(ABC):
    """One server. `url` says how to reach it. tls: whether it speaks only TLS, with a
    certificate for localhost made for the occasion, `certificate`."""

    def __init__(self, folder: Path, *, tls: bool = False) -> None:
        self.folder, self.tls = folder, tls
        self.certificate, self.key = folder / "server.crt", folder / "server.key"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        if tls:
            make_certificate(self.certificate, self.key)
            self.url = (
                f"rediss://:{PASSWORD}@localhost:{self.port}/0?ssl_ca_certs={self.certificate}"
            )

    def client(self) -> Any:
        import redis

        return redis.Redis.from_url(self.url)

    @abstractmethod
    def start(self) -> None:
        """Start, also after `kill`, and wait until it answers."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL, as when the machine dies. What it held is gone."""

    @abstractmethod
    def paused(self) -> contextlib.AbstractContextManager[None]:
        """The server hangs: it is there, and answers nothing."""

    def stop(self) -> None:
        """The end."""
        self.kill()

    def _listening(self, port: int, folder: str) -> list[str]:
        """The arguments that say where it listens. folder: where it finds its certificate."""
        if not self.tls:
            return ["--port", str(port)]
        return ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no",
                "--tls-cert-file", f"{folder}/{self.certificate.name}",
                "--tls-key-file", f"{folder}/{self.key.name}"]  # fmt: skip


class LocalRedis(RedisServer):
    """A process of this machine."""

    def __init__(self, binary: Path, folder: Path, *, tls: bool = False) -> None:
        super().__init__(folder, tls=tls)
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        import redis

        self._process = subprocess.Popen(
            [str(self._binary), *self._listening(self.port, str(self.folder)), "--bind", "127.0.0.1", "--save", "",
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
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)


class ContainerRedis(RedisServer):
    """The service `redis` of `compose.yaml`."""

    def __init__(self, folder: Path, *, tls: bool = False) -> None:
        super().__init__(folder, tls=tls)
        variables = {"REDIS_PORT": str(self.port), "REDIS_PASSWORD": PASSWORD}
        more: dict[str, Any] = {}
        if tls:
            folder.chmod(0o755)
            self.key.chmod(0o644)  # the container's user is another one
            more = {
                "command": ["redis-server", "--save", "", "--requirepass", PASSWORD,
                            *self._listening(6379, "/certificates")],
                "volumes": [f"{folder}:/certificates:ro"],
                "healthcheck": {"test": ["CMD", "redis-cli", "--tls", "--insecure", "ping"]},
            }  # fmt: skip
        self._service = Service("redis", folder, variables, more)

    def start(self) -> None:
        self._service.up()

    def kill(self) -> None:
        self._service.kill()

    def stop(self) -> None:
        self._service.down()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self._service.pause()
        try:
            yield
        finally:
            self._service.go_on()


def _binary() -> Path | None:
    found = shutil.which("redis-server")
    return None if found is None else Path(found)


@contextlib.contextmanager
def server(*, tls: bool = False) -> Iterator[RedisServer]:
    """A running server, removed afterwards. Raises pytest's own outcomes."""
    binary = choose("Redis", _binary, "redis-server")
    folder = Path(tempfile.mkdtemp(prefix="dataflare-redis-"))
    made = (
        ContainerRedis(folder, tls=tls) if binary is None else LocalRedis(binary, folder, tls=tls)
    )
    atexit.register(made.stop)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        atexit.unregister(made.stop)
        shutil.rmtree(folder, ignore_errors=True)
