"""Listen at TCP, UDP and Unix sockets.

Always true: a connection is read further when its messages are on disk, so a full log makes its sender wait. A datagram
cannot wait: those for which there is no room are dropped, and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from msgspec import Struct
from pydantic import AfterValidator

from dataflare.errors import DataFlareError
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.push.addresses import ServerTls, address_of, ended, listening
from dataflare.sdk.push.collector import Collector
from dataflare.sdk.push.framing import Framing, MakeFraming, TooLong
from dataflare.sdk.push.inbox import Inbox
from dataflare.sdk.push.reader import Listener
from dataflare.sdk.threads import in_thread

_READ_BYTES = 64 << 10
_DATAGRAMS_MAX, _DATAGRAM_BYTES_MAX = 50_000, 16 << 20
_RECEIVE_BYTES = 4 << 20
_CLOSING_S = 2.0
SCHEMES = ("tcp", "udp", "unix", "unixgram")


class Endpoint(Struct, frozen=True):
    """scheme: of `SCHEMES`. place: host:port, or a path."""

    scheme: str
    place: str

    @property
    def is_datagrams(self) -> bool:
        return self.scheme in ("udp", "unixgram")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}"


def endpoint_of(text: str) -> Endpoint:
    """Of `tcp://host:port`, `udp://host:port`, `unix:///path` or `unixgram:///path`. Raises ValueError."""
    scheme, separator, place = text.partition("://")
    if not separator or scheme not in SCHEMES or not place:
        raise ValueError(
            "expected tcp://host:port, udp://host:port, unix:///path or unixgram:///path"
        )
    if scheme in ("tcp", "udp"):
        address_of(place)
        if urlsplit(text).username is not None:
            raise ValueError("expected host:port behind ://")
    return Endpoint(scheme, place)


def _checked(text: str) -> str:
    endpoint_of(text)
    return text


ListenAtSocket = Annotated[str, AfterValidator(_checked)]
"""As `endpoint_of` takes it."""


class SocketListener(Listener):
    """reply: bytes that are sent to a connection for each message that is on disk. Each message is its bytes, the time
    at which it came, and the sender's address."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        framing: MakeFraming,
        context: ConnectorContext,
        *,
        bytes_max: int,
        datagram_framing: MakeFraming | None = None,
        tls: ServerTls | None = None,
        reply: bytes = b"",
        connections_max: int = 1_000,
    ) -> None:
        self._endpoints, self._framing, self._context = endpoints, framing, context
        self._datagram_framing, self._bytes_max = datagram_framing, bytes_max
        self._tls, self._reply, self._connections_max = tls, reply, connections_max
        self._servers: list[asyncio.Server] = []
        self._transports: list[asyncio.DatagramTransport] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._paths: list[Path] = []
        self._inbox: Inbox | None = None
        self._datagrams: Collector | None = None

    async def start(self, inbox: Inbox) -> None:
        self._inbox = inbox
        tls = None if self._tls is None else await in_thread(self._tls.context, self._context)
        self._datagrams = Collector(
            inbox, messages_max=_DATAGRAMS_MAX, bytes_max=_DATAGRAM_BYTES_MAX
        )
        for endpoint in self._endpoints:
            starting = (
                self._datagrams_at(endpoint)
                if endpoint.is_datagrams
                else self._streams_at(endpoint, tls)
            )
            await listening(starting, str(endpoint), self._context.step)

    async def aclose(self) -> None:
        for server in self._servers:
            server.close()
        for transport in self._transports:
            transport.close()
        for task in self._connections:
            task.cancel()
        await ended(self._connections, _CLOSING_S)
        for server in self._servers:
            await server.wait_closed()
        if self._datagrams is not None:
            await self._datagrams.aclose()
        for path in self._paths:
            await in_thread(path.unlink, missing_ok=True)

    async def _streams_at(self, endpoint: Endpoint, tls: ssl.SSLContext | None) -> None:
        if endpoint.scheme == "unix":
            path = await in_thread(self._free_path, endpoint)
            server = await asyncio.start_unix_server(self._connected, path)
            self._paths.append(path)
        else:
            address = address_of(endpoint.place)
            server = await asyncio.start_server(
                self._connected, address.host or None, address.port, ssl=tls, reuse_address=True
            )
        self._servers.append(server)

    async def _datagrams_at(self, endpoint: Endpoint) -> None:
        loop = asyncio.get_running_loop()
        if endpoint.scheme == "unixgram":
            path = await in_thread(self._free_path, endpoint)
            made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            made.bind(str(path))
            self._paths.append(path)
        else:
            address = address_of(endpoint.place)
            found = await loop.getaddrinfo(
                address.host or None, address.port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
            )
            family, kind, protocol, _, place = found[0]
            made = socket.socket(family, kind, protocol)
            made.bind(place)
        made.setblocking(False)
        with contextlib.suppress(OSError):
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self._datagram), sock=made
        )
        self._transports.append(transport)

    def _free_path(self, endpoint: Endpoint) -> Path:
        """The path of a socket; one that a program left there is removed, one that is in use is not."""
        path = self._context.path(endpoint.place)
        try:
            is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
        except FileNotFoundError:
            return path
        if not is_socket:
            raise OSError(17, "there is a file that is not a socket")
        kind = socket.SOCK_DGRAM if endpoint.is_datagrams else socket.SOCK_STREAM
        with socket.socket(socket.AF_UNIX, kind) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                path.unlink(missing_ok=True)
                return path
        raise OSError(98, "address already in use")

    # -- connections -------------------------------------------------------------------------------

    async def _connected(
        self, reading: asyncio.StreamReader, writing: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        assert self._inbox is not None
        self._connections.add(task)
        try:
            if len(self._connections) > self._connections_max:
                self._inbox.warn(
                    f"connections were closed at once, because there were {self._connections_max:,} others"
                )
                return
            await self._take(self._framing(), reading, writing, _peer(writing))
        except TooLong:
            self._inbox.warn(
                f"connections were closed inside a message, or because it has more than {self._bytes_max:,} bytes"
            )
        except OSError:
            self._inbox.warn("connections broke")
        except (DataFlareError, asyncio.CancelledError):
            return  # the reader raises the error; a task that is cancelled is let go of by `aclose`
        finally:
            self._connections.discard(task)
            writing.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writing.wait_closed()

    async def _take(
        self,
        framing: Framing,
        reading: asyncio.StreamReader,
        writing: asyncio.StreamWriter,
        peer: str | None,
    ) -> None:
        while data := await reading.read(_READ_BYTES):
            await self._put(framing.feed(data), peer, writing)
        await self._put(framing.rest(), peer, writing)

    async def _put(
        self, found: Sequence[bytes], peer: str | None, writing: asyncio.StreamWriter
    ) -> None:
        if not found:
            return
        assert self._inbox is not None
        now_us = time.time_ns() // 1000
        await self._inbox.put([[each, now_us, peer] for each in found], sum(map(len, found)))
        if self._reply:
            writing.write(self._reply * len(found))
            await writing.drain()

    # -- datagrams ---------------------------------------------------------------------------------

    def _datagram(self, data: bytes, peer: Any) -> None:
        assert self._inbox is not None
        found = [data]
        if self._datagram_framing is not None:
            framing = self._datagram_framing()
            try:
                found = [*framing.feed(data), *framing.rest()]
            except TooLong:
                self._inbox.warn("datagrams were dropped, because a message in them is too long")
                return
        assert self._datagrams is not None
        if self._datagrams.is_full:
            self._inbox.warn("datagrams were dropped, because there was no room")
            return
        now_us, address = time.time_ns() // 1000, _shown(peer)
        for each in found:
            self._datagrams.add([each, now_us, address])


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, came: Any) -> None:
        self._came = came

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._came(data, addr)


def _peer(writing: asyncio.StreamWriter) -> str | None:
    return _shown(writing.get_extra_info("peername"))


def _shown(peer: Any) -> str | None:
    """host:port; None for a Unix socket, whose clients have no address."""
    if isinstance(peer, tuple) and len(peer) >= 2:
        host = f"[{peer[0]}]" if ":" in peer[0] else peer[0]
        return f"{host}:{peer[1]}"
    return None
