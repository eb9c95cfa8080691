"""The `websocket` destination: a message for each row."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence

import aiohttp
import polars as pl

from dataflare.connectors.websocket.config import WebsocketDestinationConfig
from dataflare.errors import DataFlareError
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.push.client_errors import ClientErrors
from dataflare.sdk.push.destination import LinkDestination
from dataflare.sdk.push.sending import Link
from dataflare.sdk.threads import in_thread

_CLOSING_S = 2.0
_AT_ONCE = 1_000
"""How many messages are sent before the server is asked whether it has them."""
_REFUSALS = {
    1002: "it does not understand what it gets",
    1003: "it does not take this kind of message",
    1007: "a message is not what it should be",
    1008: "a message breaks its rules",
    1009: "a message is too large for it",
}
"""Codes by which a server says that the same messages will be refused again."""
_BYTES = ("avro", "protobuf", "raw")
"""Formats whose messages are sent as binary ones."""
_BROKEN = (aiohttp.ClientError, ssl.SSLError, OSError, TimeoutError)


class WebsocketDestination(LinkDestination):
    """A WebSocket server."""

    type = "websocket"
    Config = WebsocketDestinationConfig
    summary = "Sends a message for each row to a WebSocket server."
    example = """\
out:
  type: websocket
  inputs: [prices]
  config: {url: wss://collect.example.com/prices}
"""

    receiver = "server"
    unconfirmed = (
        "messages that the server has not confirmed (pong) are sent again when the connection breaks; that its program has taken "
        "them is told by 'reply' alone"
    )

    @property
    def label(self) -> str:
        return str(self.config.url).partition("?")[0]

    def link(self) -> Link:
        return WebsocketLink(self.config, self.context)

    def describe(self, link: Link) -> Mapping[str, str]:
        assert isinstance(link, WebsocketLink)
        protocol = link.protocol
        return {"server": self.label, **({"subprotocol": protocol} if protocol else {})}

    def unfit(self) -> Sequence[pl.Expr]:
        return ()


class WebsocketLink(ClientErrors, Link):
    """A connection. A server answers in the order in which it was asked, so the answer to a ping (pong) tells that it has
    all messages before it. Its program may not have taken them: a library answers pings by itself."""

    config: WebsocketDestinationConfig

    def __init__(self, config: WebsocketDestinationConfig, context: ConnectorContext) -> None:
        self.config, self.context, self.url = config, context, config.url
        self.timeout = config.timeout
        self._binary = config.value_format in _BYTES
        self._session: aiohttp.ClientSession | None = None
        self._connection: aiohttp.ClientWebSocketResponse | None = None
        self._reading: asyncio.Task[None] | None = None
        self._pings = self._confirmed = self._wanted = 0
        self._settled = asyncio.Event()
        self._broken: DataFlareError | None = None

    @property
    def protocol(self) -> str | None:
        """The one that the server has chosen."""
        return self._connection.protocol if self._connection is not None else None

    async def connect(self) -> None:
        config, tls = self.config, None
        if config.tls is not None:
            tls = await in_thread(config.tls.context, self.context)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls if tls is not None else True, force_close=True),
            headers=config.all_headers,
        )
        try:
            async with asyncio.timeout(config.timeout):
                self._connection = await self._session.ws_connect(
                    self.url,
                    params=config.all_params,
                    protocols=config.subprotocols,
                    autoping=False,
                    heartbeat=config.heartbeat,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSING_S),
                )
        except _BROKEN as error:
            raise self.translated(error) from error
        self._broken = None
        self._reading = asyncio.create_task(self._read(self._connection))

    async def _read(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        """Note what the server confirms, and answer its pings."""
        reply = self.config.reply
        while True:
            found = await connection.receive()
            match found.type:
                case aiohttp.WSMsgType.PING:
                    await connection.pong(found.data)
                case aiohttp.WSMsgType.PONG:
                    if not reply and found.data == self._ping:
                        self._confirm(self._wanted)
                case aiohttp.WSMsgType.TEXT | aiohttp.WSMsgType.BINARY:
                    if reply and found.data in (reply, reply.encode()):
                        self._confirm(self._confirmed + 1)
                case _:
                    self._note(self._ended(connection))
                    return

    def _confirm(self, number: int) -> None:
        self._confirmed = number
        if number >= self._wanted:
            self._settled.set()

    @property
    def _ping(self) -> bytes:
        return str(self._pings).encode()

    def _ended(self, connection: aiohttp.ClientWebSocketResponse) -> DataFlareError:
        why = connection.exception() or _REFUSALS.get(connection.close_code or 0)
        return self._error(
            f"the connection to {self.place} ended with the code {connection.close_code}"
            + (f": {why}" if why is not None else ""),
            "E0607",
            "see what the server says",
            later=connection.close_code not in _REFUSALS,
        )

    def _note(self, error: DataFlareError) -> None:
        self._broken = self._broken or error
        self._settled.set()

    async def deliver(self, messages: Sequence[bytes]) -> int:
        self._confirmed = 0
        for start in range(0, len(messages), _AT_ONCE):
            if self._broken is None:
                await self._send(messages[start : start + _AT_ONCE])
        return self._confirmed

    async def _send(self, messages: Sequence[bytes]) -> None:
        """Send, and wait until these are confirmed, or the connection breaks."""
        connection = self._connection
        assert connection is not None
        self._pings += 1
        self._wanted = self._confirmed + len(messages)
        self._settled.clear()
        try:
            async with asyncio.timeout(self._wait_s(messages)):
                for message in messages:
                    if self._binary:
                        await connection.send_bytes(message)
                    else:
                        await connection.send_str(message.decode())
                if not self.config.reply:
                    await connection.ping(self._ping)
                await self._settled.wait()
        except _BROKEN as error:
            self._note(self.translated(error))

    def _wait_s(self, messages: Sequence[bytes]) -> float:
        """A slow line may take a megabyte a second."""
        return self.timeout + sum(map(len, messages)) / (1 << 20)

    def broken(self) -> DataFlareError:
        assert self._broken is not None
        return self._broken

    async def aclose(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
        if self._session is not None:
            await self._session.close()
            self._session = None
