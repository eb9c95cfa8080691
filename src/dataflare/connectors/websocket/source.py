"""The `websocket` source: what a server sends over a connection that stays open."""

from __future__ import annotations

import asyncio
import time

import aiohttp

from dataflare.connectors.websocket.config import WebsocketSourceConfig
from dataflare.errors import Retry, SystemError_
from dataflare.model.types import BINARY, STRING, Schema, timestamp
from dataflare.sdk.push.blocks import Message
from dataflare.sdk.push.clients import ClientListener
from dataflare.sdk.push.collector import Collector
from dataflare.sdk.push.inbox import Inbox
from dataflare.sdk.push.reader import Listener
from dataflare.sdk.push.source import PushSource
from dataflare.sdk.source import SourceCapabilities

_WAITING_MAX, _WAITING_BYTES = 20_000, 8 << 20
_CLOSING_S = 2.0
_NORMAL = 1000


class WebsocketSource(PushSource):
    """A WebSocket server."""

    type = "websocket"
    Config = WebsocketSourceConfig
    summary = "Takes the messages that a WebSocket server sends."
    example = """\
trades:
  type: websocket
  config:
    url: wss://stream.example.com/trades
    subscribe: [{op: subscribe, channel: trades}]
    metadata: [time]
  schema: {symbol: string, price: float64}
"""
    fields = Schema.of([("value", BINARY), ("time", timestamp("us", "UTC")), ("kind", STRING)])

    def capabilities(self) -> SourceCapabilities:
        return self.capabilities_of(
            bounded=self.config.end, reason="messages are in a log on disk when they have come"
        )

    def listener(self) -> Listener:
        return WebsocketListener(self.config, self.context, self.config.url)

    def heard_at(self) -> str:
        return str(self.config.url).partition("?")[0]


class WebsocketListener(ClientListener):
    config: WebsocketSourceConfig

    async def take(self, session: aiohttp.ClientSession, inbox: Inbox) -> bool:
        connection = await self._connected(session)
        collector = Collector(inbox, messages_max=_WAITING_MAX, bytes_max=_WAITING_BYTES)
        try:
            for text in self.config.greetings:
                await connection.send_str(text)
            while (message := await _next(connection)) is not None:
                self.has_come()
                collector.add(message)
                await collector.room()
            # What has come before the end is kept, however the connection ended.
            await collector.drained()
            return self.config.end and self._has_ended(connection)
        finally:
            await collector.aclose()
            await connection.close()

    async def _connected(self, session: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        config = self.config
        async with asyncio.timeout(config.timeout):
            connection = await session.ws_connect(
                self.url,
                params=config.all_params,
                protocols=config.subprotocols,
                heartbeat=config.heartbeat,
                max_msg_size=config.max_message,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSING_S),
            )
        self.is_well()
        return connection

    def _has_ended(self, connection: aiohttp.ClientWebSocketResponse) -> bool:
        if connection.close_code == _NORMAL:
            return True
        broken = connection.exception()
        raise SystemError_(
            f"the connection to {self.place} ended with the code {connection.close_code}"
            + (f": {broken}" if broken is not None else ""),
            code="E0607",
            step=self.context.step,
            retry=Retry.LATER,
            help="see what the server says",
        )


async def _next(connection: aiohttp.ClientWebSocketResponse) -> Message | None:
    """The next message; None at the end of the connection."""
    found = await connection.receive()
    now_us = time.time_ns() // 1000
    if found.type is aiohttp.WSMsgType.TEXT:
        return [found.data.encode(), now_us, "text"]
    if found.type is aiohttp.WSMsgType.BINARY:
        return [found.data, now_us, "binary"]
    return None
