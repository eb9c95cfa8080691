"""The fault proxy, before a real server of echoes."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from dataflare.testing import NO_FAULTS, FaultProxy, Faults


class Echo:
    """A server that sends back what it gets. ends: how many of its connections have ended."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.ends = threading.Semaphore(0)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._echo, args=(client,), daemon=True).start()

    def _echo(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            while data := client.recv(65_536):
                client.sendall(data)
        self.ends.release()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", echo.port, seed=1) as made:
        yield made


def connected(proxy: FaultProxy) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
    assert back(client, b"hello") == b"hello"
    return client


def back(client: socket.socket, data: bytes) -> bytes:
    """What comes back, until all is there or the connection ends."""
    sender = threading.Thread(target=_send, args=(client, data), daemon=True)
    sender.start()
    received = b""
    while len(received) < len(data) and (piece := client.recv(65_536)):
        received += piece
    sender.join()
    return received


def _send(client: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        client.sendall(data)


def test_without_a_fault_each_byte_passes(proxy: FaultProxy) -> None:
    data = random.Random(3).randbytes(2_000_000)
    with connected(proxy) as client:
        assert back(client, data) == data
    assert (proxy.connections, proxy.broken) == (1, 0)


def test_delay_and_throttle_take_their_time_and_lose_nothing(proxy: FaultProxy) -> None:
    with connected(proxy) as client:
        proxy.faults = Faults(delay_s=0.05)
        began = time.monotonic()
        assert back(client, b"x") == b"x"
        assert time.monotonic() - began >= 0.1  # there and back
        proxy.faults = Faults(bytes_per_s=1_000_000)
        began = time.monotonic()
        assert back(client, b"y" * 100_000) == b"y" * 100_000
        assert time.monotonic() - began >= 0.1
        proxy.faults = NO_FAULTS
        assert back(client, b"z") == b"z"


def test_cut_is_an_end_and_reset_is_an_error(proxy: FaultProxy) -> None:
    with connected(proxy) as client:
        assert proxy.cut() == 1
        assert client.recv(1) == b""
    with connected(proxy) as client:
        assert proxy.reset() == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert proxy.broken == 2


def test_a_server_does_not_notice_a_half_open_connection(proxy: FaultProxy, echo: Echo) -> None:
    with connected(proxy) as client:
        assert proxy.half_open() == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert not echo.ends.acquire(timeout=0.2)
    proxy.close()
    assert echo.ends.acquire(timeout=10)


def test_what_hangs_passes_later(proxy: FaultProxy) -> None:
    with connected(proxy) as client:
        proxy.hang()
        client.sendall(b"late")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(4)
        proxy.go_on()
        client.settimeout(10)
        assert client.recv(4) == b"late"


def test_a_proxy_that_refuses_closes_at_once(proxy: FaultProxy) -> None:
    proxy.refuses = True
    with pytest.raises((ConnectionResetError, AssertionError)):
        connected(proxy)
    proxy.refuses = False
    connected(proxy).close()


def test_the_same_seed_breaks_at_the_same_bytes(echo: Echo) -> None:
    def lengths(seed: int) -> list[int]:
        with FaultProxy("127.0.0.1", echo.port, seed=seed) as proxy:
            proxy.faults = Faults(cut_after=(100, 5_000))
            return [echoed(proxy) for _ in range(5)]

    def echoed(proxy: FaultProxy) -> int:
        """How many bytes came back, one by one."""
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            count = 0
            with contextlib.suppress(OSError):
                while True:
                    client.sendall(b"x" * 50)
                    got = b""
                    while len(got) < 50:
                        piece = client.recv(50 - len(got))
                        if not piece:
                            return count
                        got += piece
                    count += 50
            return count

    first = lengths(5)
    assert first == lengths(5)
    assert first != lengths(6)
    assert len(set(first)) > 1
