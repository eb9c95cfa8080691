"""The proxy that breaks connections."""

from __future__ import annotations

import socket

import pytest

from dataflare.testing import FaultProxy


def test_one_that_ends_with_open_connections_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with FaultProxy("127.0.0.1", server.getsockname()[1]) as proxy:
            client = socket.create_connection(("127.0.0.1", proxy.port))
            there, _ = server.accept()
            client.sendall(b"x")
            assert there.recv(1) == b"x"
        client.close()
        there.close()
    assert [each.getMessage() for each in caplog.records] == []
