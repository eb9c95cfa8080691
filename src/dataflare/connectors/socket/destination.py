"""The `socket` destination: a message for each row over TCP, UDP or a Unix socket."""

from __future__ import annotations

import asyncio
import ssl
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from dataflare.connectors.socket.config import SocketDestinationConfig
from dataflare.connectors.socket.datagrams import DATAGRAM_BYTES, DatagramLink
from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.destination import Delivery, DestinationCapabilities
from dataflare.sdk.push.addresses import ClientTls, address_of
from dataflare.sdk.push.destination import LinkDestination
from dataflare.sdk.push.sending import Link
from dataflare.sdk.threads import in_thread

_AT_ONCE = 1_000
_LOOK_S, _LOOK_MAX_S = 0.001, 0.05
_SIOCOUTQ = 0x5411
"""Of Linux: how many bytes of a connection the other end has not confirmed (TCP) or read (Unix)."""
_BROKEN = (OSError, ssl.SSLError, TimeoutError, EOFError)


class SocketDestination(LinkDestination):
    """A socket at which a receiver listens."""

    type = "socket"
    Config = SocketDestinationConfig
    summary = "Sends a message for each row over TCP, UDP or a Unix socket."
    example = """\
out:
  type: socket
  inputs: [readings]
  config:
    connect: tcp://127.0.0.1:9000
    reply: "OK\\n"
"""

    receiver = "receiver"
    unconfirmed = (
        "what the receiver's system has not confirmed is sent again when the connection breaks; that its program has read it is "
        "told by 'reply' alone"
    )

    @property
    def label(self) -> str:
        return str(self.config.endpoint)

    def capabilities(self) -> DestinationCapabilities:
        if not self.config.endpoint.is_datagrams:
            return super().capabilities()
        return DestinationCapabilities(
            Delivery.FLEETING,
            "a datagram may be lost unnoticed, and what was sent since the last checkpoint is sent again after a crash",
        )

    def link(self) -> Link:
        if self.config.endpoint.is_datagrams:
            return DatagramLink(self.config, self.context)
        return SocketLink(self.config, self.context)

    def describe(self, link: Link) -> Mapping[str, str]:
        if self.config.endpoint.is_datagrams:
            return {"receiver": f"{self.label}; whether it listens is not known"}
        return {"receiver": f"listens at {self.label}"}

    def unfit(self) -> Sequence[pl.Expr]:
        value, most = pl.col("value"), self.config.max_message
        reasons = []
        if self.config.endpoint.is_datagrams:
            most = min(most, DATAGRAM_BYTES)
            empty = pl.lit("it is empty, and an empty datagram is not sent")
            reasons.append(pl.when(value.bin.size() == 0).then(empty))
        elif self.config.framing == "length":
            most = min(most, 256**self.config.length_bytes - 1)
        else:
            reasons += [
                pl.when(value.bin.contains(b"\n") | value.bin.ends_with(b"\r")).then(
                    pl.lit(
                        "it has a line feed, or ends with a carriage return: framing: length takes it"
                    )
                ),
                pl.when(value.bin.size() == 0).then(
                    pl.lit(
                        "it is empty, and an empty line is not a message: framing: length takes it"
                    )
                ),
            ]
        too_large = pl.format(f"it has {{}} bytes, and max_message is {most:,}", value.bin.size())
        return [*reasons, pl.when(value.bin.size() > most).then(too_large)]


class SocketLink(Link):
    """A connection."""

    def __init__(self, config: SocketDestinationConfig, context: ConnectorContext) -> None:
        self._config, self._context, self.timeout = config, context, config.timeout
        self._reply = config.reply.encode()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._broken: Exception | None = None

    async def connect(self) -> None:
        place = self._config.endpoint
        try:
            async with asyncio.timeout(self.timeout):
                if place.scheme == "unix":
                    path = str(self._context.path(place.place))
                    self._reader, self._writer = await asyncio.open_unix_connection(path)
                    return
                address = address_of(place.place)
                self._reader, self._writer = await asyncio.open_connection(
                    address.host, address.port, ssl=await self._tls()
                )
        except _BROKEN as error:
            raise self._translated(error) from error

    async def _tls(self) -> ssl.SSLContext | None:
        given = self._config.tls
        if isinstance(given, ClientTls):
            return await in_thread(given.context, self._context)
        return await in_thread(ssl.create_default_context) if given else None

    async def deliver(self, messages: Sequence[bytes]) -> int:
        confirmed = 0
        try:
            while confirmed < len(messages):
                part = messages[confirmed : confirmed + _AT_ONCE]
                if self._reply:
                    async for _ in self._replies(part):
                        confirmed += 1
                else:
                    async with asyncio.timeout(self._wait_s(part)):
                        await self._send(part)
                        await self._is_there()
                    confirmed += len(part)
        except _BROKEN as error:
            self._broken = error
        return confirmed

    def _wait_s(self, messages: Sequence[bytes]) -> float:
        """A slow line may take a megabyte a second."""
        return self.timeout + sum(map(len, messages)) / (1 << 20)

    async def _send(self, messages: Sequence[bytes]) -> None:
        assert self._writer is not None
        self._check_open()
        config = self._config
        if config.framing == "length":
            heads = [
                len(each).to_bytes(config.length_bytes, config.byte_order) for each in messages
            ]
            data = b"".join(part for pair in zip(heads, messages, strict=True) for part in pair)
        else:
            data = b"\n".join([*messages, b""])
        self._writer.write(data)
        await self._writer.drain()

    async def _replies(self, messages: Sequence[bytes]) -> Any:
        """Send, and give something for each reply. Sending and reading go on together: a receiver that replies to each
        message may not read further while its replies are not read."""
        assert self._reader is not None
        sending = asyncio.ensure_future(self._send(messages))
        try:
            async with asyncio.timeout(self._wait_s(messages)):
                for _ in messages:
                    found = await self._reader.readexactly(len(self._reply))
                    if found != self._reply:
                        raise _WrongReply(found)
                    yield found
                await sending
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _is_there(self) -> None:
        """Wait until the other end has all bytes."""
        wait_s = _LOOK_S
        while self._left():
            self._check_open()
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _LOOK_MAX_S)

    def _check_open(self) -> None:
        """Raises EOFError, or what broke the connection, where the receiver has closed it."""
        assert self._reader is not None
        broken = self._reader.exception()
        if broken is not None:
            raise broken
        if self._reader.at_eof():
            raise EOFError("the receiver has closed it")

    def _left(self) -> int:
        """How many bytes the other end does not have, as far as the system tells."""
        assert self._writer is not None
        transport = self._writer.transport
        waiting = transport.get_write_buffer_size()
        if waiting or sys.platform != "linux":
            return waiting
        import fcntl

        number = transport.get_extra_info("socket").fileno()
        if number < 0:
            raise EOFError("it was lost")
        return int(struct.unpack("i", fcntl.ioctl(number, _SIOCOUTQ, b"\0" * 4))[0])

    def broken(self) -> DataFlareError:
        assert self._broken is not None
        return self._translated(self._broken)

    def _translated(self, error: Exception) -> DataFlareError:
        place, step = self._config.endpoint, self._context.step
        if isinstance(error, _WrongReply):
            return SystemError_(
                f"{place} sent {error.found[:100]!r}, where the reply {self._reply!r} was expected",
                code="E0611",
                step=step,
                help="look at 'reply', and at what the receiver says",
            )
        if isinstance(error, ssl.SSLError):
            return SystemError_(
                f"no TLS connection to {place}: {error}",
                code="E0609",
                step=step,
                help="name the certificates to trust: tls: {ca: /path/to/ca.pem}",
            )
        if isinstance(error, PermissionError):
            return SystemError_(
                f"permission denied: connecting to {place}",
                code="E0602",
                step=step,
                help="grant the user the right to write to the socket",
            )
        if isinstance(error, TimeoutError):
            return SystemError_(
                f"{place} did not answer within {self.timeout:g} s",
                code="E0608",
                step=step,
                retry=Retry.LATER,
                help="see whether the receiver works, or raise 'timeout'",
            )
        return SystemError_(
            f"no connection to {place}: {error or type(error).__name__}",
            code="E0607",
            step=step,
            retry=Retry.LATER,
            help="see whether the receiver runs and the address is right",
        )

    async def aclose(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


class _WrongReply(OSError):
    """The receiver sent something else than the reply."""

    def __init__(self, found: bytes) -> None:
        super().__init__("another reply")
        self.found = found
