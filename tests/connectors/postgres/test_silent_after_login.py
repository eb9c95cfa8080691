"""A proxy before a server may let a login through, and then nothing more."""

from __future__ import annotations

import socket
import struct
import threading

import pytest

from dataflare.connectors.postgres.config import PostgresConfig
from dataflare.connectors.postgres.connection import Server
from dataflare.errors import Retry, SystemError_

READY = (
    b"R" + struct.pack("!II", 8, 0)
    + b"S" + struct.pack("!I", 4 + 20) + b"server_version\x0016.0\x00"
    + b"Z" + struct.pack("!I", 5) + b"I"
)  # fmt: skip


def test_a_server_that_is_silent_after_the_login_is_given_up_for_now() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(READY)
                while connection.recv(4096):
                    pass

        serving = threading.Thread(target=serve)
        serving.start()
        port = listener.getsockname()[1]
        dsn = f"postgresql://u@127.0.0.1:{port}/d?sslmode=disable&gssencmode=disable"
        server = Server.of(PostgresConfig(connection_string=dsn, connect_timeout="2s"))
        with pytest.raises(SystemError_, match="did not answer within 2 s") as refused:
            server.connect("test")
        serving.join()
    assert refused.value.retry is Retry.LATER
