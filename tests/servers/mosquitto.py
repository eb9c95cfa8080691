"""A real Mosquitto for tests of MQTT: on private loopback ports, with passwords; killed and started again on demand."""

from __future__ import annotations

import contextlib
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
user root
allow_anonymous false
password_file {folder}/passwords
acl_file {folder}/rights
persistence true
persistence_location {folder}/
autosave_on_changes true
autosave_interval 1
listener {port} 127.0.0.1
listener {tls_port} 127.0.0.1
certfile {folder}/server.crt
keyfile {folder}/server.key
"""
_RIGHTS = f"""\
user {USER}
topic readwrite #
user {GUEST}
topic read allowed/#
"""


class MosquittoServer(ProcessServer):
    """`url` says how to reach it, `tls_url` with TLS, `certificate` is for localhost. What it has is on disk at once."""

    def __init__(self, folder: Path, binary: Path) -> None:
        super().__init__(folder)
        self._binary = binary
        self.port, self.tls_port = free_port(), free_port()
        self.certificate = folder / "server.crt"
        self.url = f"mqtt://{USER}:{PASSWORD}@127.0.0.1:{self.port}"
        self.guest = f"mqtt://{GUEST}:{PASSWORD}@127.0.0.1:{self.port}"
        self.tls_url = f"mqtts://{USER}:{PASSWORD}@localhost:{self.tls_port}"
        make_certificate(self.certificate, folder / "server.key")
        (folder / "rights").write_text(_RIGHTS)
        passwords = folder / "passwords"
        passwords.write_text(f"{USER}:{PASSWORD}\n{GUEST}:{PASSWORD}\n")
        subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True, capture_output=True)
        for name in ("rights", "passwords"):
            (folder / name).chmod(0o600)
        config = _CONFIG.format(folder=folder, port=self.port, tls_port=self.tls_port)
        (folder / "mosquitto.conf").write_text(config)

    def command(self) -> list[str]:
        return [str(self._binary), "-c", str(self.folder / "mosquitto.conf")]

    def answers(self) -> bool:
        return listens(self.port)


@contextlib.contextmanager
def server() -> Iterator[MosquittoServer]:
    """A running server, removed afterwards. Raises pytest's own outcomes."""
    binary = program("Mosquitto", "mosquitto", "mosquitto")
    with thrown_away(MosquittoServer, "mosquitto", binary) as made:
        yield made
