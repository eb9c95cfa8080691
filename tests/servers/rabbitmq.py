"""A real RabbitMQ for tests, with its own port mapper, on private loopback ports; killed and started again on demand."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from servers.certificates import make_certificate
from servers.process import (
    GUEST,
    PASSWORD,
    USER,
    ProcessServer,
    free_port,
    listens,
    program,
    thrown_away,
)

_CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{port}
listeners.ssl.1 = 127.0.0.1:{tls_port}
ssl_options.certfile = {folder}/server.crt
ssl_options.keyfile = {folder}/server.key
ssl_options.cacertfile = {folder}/server.crt
load_definitions = {folder}/definitions.json
log.console = true
log.file = false
vm_memory_high_watermark.absolute = 256MiB
disk_free_limit.absolute = 1MB
"""


class RabbitmqServer(ProcessServer):
    """`url` says how to reach it, `tls_url` with TLS, `certificate` is for localhost."""

    def __init__(self, folder: Path, binary: Path) -> None:
        super().__init__(folder)
        self._binary = binary
        self.port, self.tls_port = free_port(), free_port()
        self._mapper_port, self._inner_port = free_port(), free_port()
        self._mapper: subprocess.Popen[bytes] | None = None
        self.certificate = folder / "server.crt"
        self.url = f"amqp://{USER}:{PASSWORD}@127.0.0.1:{self.port}/"
        self.guest = f"amqp://{GUEST}:{PASSWORD}@127.0.0.1:{self.port}/"
        self.tls_url = f"amqps://{USER}:{PASSWORD}@localhost:{self.tls_port}/"
        make_certificate(self.certificate, folder / "server.key")
        every = {"configure": ".*", "write": ".*", "read": ".*"}
        nothing = {"configure": "", "write": "", "read": ""}
        definitions = {
            "users": [
                {"name": name, "password": PASSWORD, "tags": tags}
                for name, tags in ((USER, "administrator"), (GUEST, ""))
            ],
            "vhosts": [{"name": "/"}],
            "permissions": [
                {"user": USER, "vhost": "/", **every},
                {"user": GUEST, "vhost": "/", **nothing},
            ],
        }
        (folder / "definitions.json").write_text(json.dumps(definitions))
        (folder / "rabbitmq.conf").write_text(
            _CONFIG.format(port=self.port, tls_port=self.tls_port, folder=folder)
        )
        (folder / "plugins").write_text("[].\n")

    def command(self) -> list[str]:
        return [str(self._binary)]

    def environment(self) -> dict[str, str]:
        folder = self.folder
        return {
            **os.environ,
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"tested{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_DIST_PORT": str(self._inner_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none",
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    def start(self) -> None:
        if self._mapper is None:
            mapper = shutil.which("epmd")
            assert mapper is not None, "Erlang's port mapper epmd is not there"
            self._mapper = subprocess.Popen(
                [mapper, "-port", str(self._mapper_port), "-address", "127.0.0.1"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.environment(),
            )  # fmt: skip
            while not listens(self._mapper_port):
                assert self._mapper.poll() is None, "epmd has ended"
        super().start()

    def answers(self) -> bool:
        """It greets only who speaks its protocol, and only when its users are there."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection,
        ):
            connection.settimeout(1)
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
        return False

    def end(self) -> None:
        """It, and its port mapper."""
        self.kill()
        mapper, self._mapper = self._mapper, None
        if mapper is not None:
            mapper.kill()
            mapper.wait()


@contextlib.contextmanager
def server() -> Iterator[RabbitmqServer]:
    """A running server, removed afterwards. Raises pytest's own outcomes."""
    folders = ("/usr/lib/rabbitmq/bin",)
    # The script that Debian puts on PATH starts it as another user, in the system's folders.
    binary = program("RabbitMQ", "rabbitmq-server", "rabbitmq-server", folders)
    inner = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    with thrown_away(RabbitmqServer, "rabbitmq", inner if inner.exists() else binary) as made:
        try:
            yield made
        finally:
            made.end()
