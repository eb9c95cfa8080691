"""A real NATS server with JetStream for tests: on a private loopback port, with passwords or with TLS."""

from __future__ import annotations

import contextlib
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
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: "{folder}/data" }}
authorization {{
  users = [
    {{ user: "{user}", password: "{password}" }},
    {{ user: "{guest}", password: "{password}", permissions: {{ publish: "nothing", subscribe: "_INBOX.>" }} }}
  ]
}}
"""
_TLS = 'tls {{ cert_file: "{folder}/server.crt", key_file: "{folder}/server.key" }}\n'


class NatsServer(ProcessServer):
    """`url` says how to reach it. tls: it speaks only TLS, with `certificate`, which is for localhost."""

    def __init__(self, folder: Path, binary: Path, tls: bool) -> None:
        super().__init__(folder)
        self._binary, self.tls, self.port = binary, tls, free_port()
        self.certificate = folder / "server.crt"
        self.url = f"nats://{USER}:{PASSWORD}@localhost:{self.port}"
        self.guest = f"nats://{GUEST}:{PASSWORD}@localhost:{self.port}"
        config = _CONFIG + (_TLS if tls else "")
        if tls:
            make_certificate(self.certificate, folder / "server.key")
        (folder / "server.conf").write_text(
            config.format(port=self.port, folder=folder, user=USER, password=PASSWORD, guest=GUEST)
        )

    def command(self) -> list[str]:
        return [str(self._binary), "-c", str(self.folder / "server.conf")]

    def answers(self) -> bool:
        return listens(self.port)


@contextlib.contextmanager
def server(*, tls: bool = False) -> Iterator[NatsServer]:
    """A running server, removed afterwards. Raises pytest's own outcomes."""
    binary = program("NATS server", "nats-server", "nats-server")
    with thrown_away(NatsServer, "nats", binary, tls) as made:
        yield made
