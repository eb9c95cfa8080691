"""The `sse` source: server-sent events.

Always true: the id of the last event is in the log with the event, so a server that knows ids goes on behind it,
whenever the process died.
"""

from __future__ import annotations

import asyncio
import time

import aiohttp

from dataflare.connectors.sse.config import SseConfig
from dataflare.connectors.sse.events import EventStream, TooLong
from dataflare.errors import DataError, SystemError_
from dataflare.model.types import BINARY, STRING, Schema, timestamp
from dataflare.sdk.push.blocks import Message
from dataflare.sdk.push.clients import BROKEN, ClientListener
from dataflare.sdk.push.inbox import Inbox
from dataflare.sdk.push.reader import Listener
from dataflare.sdk.push.source import PushSource
from dataflare.sdk.source import SourceCapabilities
from dataflare.sdk.threads import in_thread

_AGAIN_MAX_S = 300.0
_ID = 3
"""The place of the id among the fields."""


class SseSource(PushSource):
    """A server that sends events."""

    type = "sse"
    Config = SseConfig
    summary = "Takes server-sent events, and goes on behind the last one after a restart."
    example = """\
changes:
  type: sse
  config:
    url: https://stream.example.com/changes
    metadata: [event, id]
  schema: {title: string, user: string}
"""
    fields = Schema.of(
        [("value", BINARY), ("time", timestamp("us", "UTC")), ("event", STRING), ("id", STRING)]
    )

    def capabilities(self) -> SourceCapabilities:
        return self.capabilities_of(
            bounded=False,
            reason="events are in a log on disk when they have come, and the server is told the last one",
        )

    def listener(self) -> Listener:
        return SseListener(self.config, self.context, self.config.url)

    def heard_at(self) -> str:
        return str(self.config.url).partition("?")[0]


class SseListener(ClientListener):
    config: SseConfig
    reconnect_warning = None

    async def start(self, inbox: Inbox) -> None:
        last = await in_thread(inbox.log.last)
        given = self.config.last_event_id or ""
        self._last_id = given if last is None or not last[_ID] else str(last[_ID])
        await super().start(inbox)

    async def take(self, session: aiohttp.ClientSession, inbox: Inbox) -> bool:
        config = self.config
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
        if self._last_id:
            headers["Last-Event-ID"] = self._last_id
        timeout = aiohttp.ClientTimeout(
            total=None,
            connect=config.timeout,
            sock_connect=config.timeout,
            sock_read=config.silence,
        )
        async with asyncio.timeout(config.timeout):
            answer = await session.get(
                self.url, params=config.all_params, headers=headers, timeout=timeout
            )
        async with answer:
            if answer.status == 204:
                return True
            if answer.status != 200:
                raise self.refused(answer.status, answer.reason or "")
            if answer.content_type != "text/event-stream":
                raise SystemError_(
                    f"{self.place} answered with {answer.content_type}, not with text/event-stream",
                    code="E0611",
                    step=self.context.step,
                    help="look at 'url'",
                )
            self.is_well()
            stream = EventStream(config.max_message, self._last_id)
            async for data in answer.content.iter_any():
                await self._put(stream, data, inbox)
        # Events without ids cannot be asked for again.
        if not self._last_id:
            inbox.warn(BROKEN)
        return False

    async def _put(self, stream: EventStream, data: bytes, inbox: Inbox) -> None:
        try:
            events = stream.feed(data)
        except TooLong:
            raise DataError(
                f"{self.place} sent an event with more than {self.config.max_message:,} bytes",
                code="E0503",
                step=self.context.step,
                help="raise 'max_message'",
            ) from None
        now_us = time.time_ns() // 1000
        wanted = self.config.events
        messages: list[Message] = [
            [each.data, now_us, each.name, each.id or None]
            for each in events
            if wanted is None or each.name in wanted
        ]
        await inbox.put(messages, sum(len(message[0]) for message in messages))
        self._last_id = stream.last_id
        self.has_come()
        if stream.retry_s is not None:
            self.again_s = max(self.again_s, min(stream.retry_s, _AGAIN_MAX_S))
