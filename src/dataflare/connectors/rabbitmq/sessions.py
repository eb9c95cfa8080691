"""Consume a queue, or a stream by its offsets.

Always true: the client holds at most `prefetch` messages that were not given; the messages of a stream come in the order
of their offsets, and a position is an offset.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
from aiormq import exceptions as said

from dataflare.connectors.rabbitmq.client import close, heartbeat_s, rabbitmq_errors
from dataflare.connectors.rabbitmq.config import RabbitmqSourceConfig
from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.formats.messages.envelope import HEADERS
from dataflare.model.progress import Position
from dataflare.model.types import BOOL, INT64, STRING, Schema, timestamp
from dataflare.sdk.brokers.queue import Delivered, QueueSession
from dataflare.sdk.brokers.reader import Feed, Message

TOLD = Schema.of(
    [
        ("id", STRING),
        ("exchange", STRING),
        ("routing_key", STRING),
        ("timestamp", timestamp("s", "UTC")),
        ("headers", HEADERS),
        ("content_type", STRING),
        ("redelivered", BOOL),
        ("offset", INT64),
    ]
)
"""What RabbitMQ says of a message beside its value."""
OFFSET = "x-stream-offset"
_LOOK_S = 1.0


class Consuming:
    """A consumer of one queue. Messages wait here until they are asked for."""

    def __init__(self, connection: Any, config: RabbitmqSourceConfig, queue: str) -> None:
        self.connection, self.config, self.queue = connection, config, queue
        self._channel: Any = None
        self._asking: Any = None
        self._waiting: deque[Any] = deque()
        self._changed = asyncio.Event()
        self._tag: str | None = None
        self._prefetch = 0

    async def begin(self, prefetch: int, arguments: Mapping[str, Any]) -> None:
        self._prefetch = prefetch
        with rabbitmq_errors(self.config.server):
            self._channel = await self.connection.channel()
            await self._channel.basic_qos(prefetch_count=prefetch)
            told = await self._channel.basic_consume(
                self.queue, self._came, arguments=dict(arguments), timeout=self.config.timeout
            )
        self._tag = told.consumer_tag
        self._channel.closing.add_done_callback(lambda _: self._changed.set())

    async def _came(self, message: Any) -> None:
        self._waiting.append(message)
        self._changed.set()

    async def receive(self, most: int, wait_s: float) -> list[Any]:
        if not self._waiting:
            self._check()
            self._changed.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                return []
        waiting = self._waiting
        return [waiting.popleft() for _ in range(min(most, len(waiting)))]

    def _check(self) -> None:
        """Raises where the channel is closed, or the queue is gone."""
        closing = self._channel.closing
        if closing.done():
            error = None if closing.cancelled() else closing.exception()
            with rabbitmq_errors(self.config.server):
                raise (
                    error if isinstance(error, said.AMQPError) else ConnectionError("it was closed")
                )
        if self._tag not in self._channel.consumers:
            raise self._gone()

    def _gone(self) -> DataFlareError:
        return SystemError_(
            f"RabbitMQ at {self.config.server} has ended the consumer of queue '{self.queue}': it was deleted, or has moved "
            "to another server",
            code="E0607",
            retry=Retry.LATER,
            help="see whether the queue is there",
        )

    async def ready(self) -> int:
        """How many messages the queue has that no consumer was given. Raises SystemError_ (E0604) where there is none."""
        with rabbitmq_errors(self.config.server):
            if self._asking is None or self._asking.is_closed:
                self._asking = await self.connection.channel()
            async with asyncio.timeout(self.config.timeout):
                told = await self._asking.queue_declare(self.queue, passive=True)
        return int(told.message_count)

    async def acknowledge_up_to(self, message: Any) -> None:
        if self._channel is None or self._channel.is_closed:
            return
        try:
            await self._channel.basic_ack(message.delivery.delivery_tag, multiple=True)
        except (said.AMQPError, said.ChannelInvalidStateError, OSError):
            return  # the reader sees that the connection is gone, and what was not acknowledged comes again

    async def has_acknowledged(self) -> bool:
        """Whether the server has what was acknowledged so far. RabbitMQ does not confirm an acknowledgement, and takes what
        comes over a channel in its order: so it is asked for what it answers. A connection that does not answer is ended."""
        if self._channel is None or self._channel.is_closed:
            return False
        try:
            async with asyncio.timeout(self.config.timeout):
                await self._channel.basic_qos(prefetch_count=self._prefetch)
        except TimeoutError:
            await close(self.connection)
            return False
        except (said.AMQPError, said.ChannelInvalidStateError, OSError, RuntimeError):
            return False  # the reader sees it
        return True

    async def stop(self) -> None:
        """Receive no more. What waits here is given to others."""
        if self._channel is None or self._channel.is_closed or self._tag is None:
            return
        tag, self._tag = self._tag, None
        try:
            async with asyncio.timeout(self.config.timeout):
                await self._channel.basic_cancel(tag)
        except (said.AMQPError, said.ChannelInvalidStateError, OSError):
            return  # the connection is gone, and the consumer with it


def message_of(raw: Any, queue: str) -> Message:
    """raw: as the client has it."""
    about, delivery = raw.header.properties, raw.delivery
    headers = dict(about.headers or {})
    offset = headers.pop(OFFSET, None)
    told = {
        "id": about.message_id,
        "exchange": delivery.exchange,
        "routing_key": delivery.routing_key,
        "timestamp": _utc(about.timestamp),
        "headers": [{"key": name, "value": _bytes(value)} for name, value in headers.items()]
        if headers
        else None,
        "content_type": about.content_type,
        "redelivered": delivery.redelivered,
        "offset": offset,
    }
    place = f"{queue} message {about.message_id or delivery.delivery_tag}"
    if offset is not None:
        place = f"{queue} offset {offset}"
    return Message(raw.body, told, place, len(raw.body) + 128)


def _utc(value: datetime | None) -> datetime | None:
    return value if value is None or value.tzinfo is not None else value.replace(tzinfo=UTC)


def _bytes(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    return orjson.dumps(value, default=str)


class QueueConsumer(QueueSession):
    """A queue, whose messages are acknowledged."""

    def __init__(self, consuming: Consuming) -> None:
        self._consuming = consuming
        self._asked = self._settled = 0
        # The server ends a connection that is silent for two heartbeats.
        self.redelivers_s = 3 * heartbeat_s(consuming.config)
        self._header = consuming.config.id if consuming.config.id != "message_id" else None

    async def receive(self, most: int, wait_s: float) -> Sequence[Delivered]:
        found = await self._consuming.receive(most, wait_s)
        queue = self._consuming.queue
        return [Delivered(message_of(raw, queue), self._id(raw), raw) for raw in found]

    def _id(self, raw: Any) -> str | None:
        about = raw.header.properties
        if self._header is None:
            return str(about.message_id) if about.message_id else None
        value = (about.headers or {}).get(self._header)
        return None if value is None else repr(value)

    async def acknowledge(self, tags: Sequence[Any]) -> int:
        # They are the oldest of those that were given, so one word is enough for all.
        self._asked += len(tags)
        await self._consuming.acknowledge_up_to(tags[-1])
        if await self._consuming.has_acknowledged():
            self._settled = self._asked
        return self._settled

    async def is_empty(self) -> bool:
        return not self._consuming._waiting and await self._consuming.ready() == 0

    async def stop(self) -> None:
        await self._consuming.stop()

    async def aclose(self) -> None:
        await close(self._consuming.connection)


class StreamFeed(Feed):
    """A queue of the type stream. after: the offset of the last message before those to read; None: begins as `begin`
    says."""

    def __init__(self, consuming: Consuming, after: int | None) -> None:
        self._consuming, self._after = consuming, after

    def position(self) -> Position:
        return Position({"offset": self._after})

    async def begin(self, start: Any) -> None:
        wanted = start if self._after is None else self._after + 1
        config = self._consuming.config
        await self._consuming.begin(min(config.prefetch, 10_000), {OFFSET: wanted})

    async def take(self, most: int, wait_s: float | None) -> Sequence[Message]:
        loop = asyncio.get_running_loop()
        end = None if wait_s is None else loop.time() + wait_s
        while True:
            left_s = _LOOK_S if end is None else max(0.0, min(_LOOK_S, end - loop.time()))
            found = await self._consuming.receive(most, left_s)
            given = self._fresh(found)
            if found:
                await self._consuming.acknowledge_up_to(found[-1])  # so that it sends more
            elif left_s >= _LOOK_S:
                await self._consuming.ready()
            if given or (end is not None and loop.time() >= end):
                return given

    def _fresh(self, found: Sequence[Any]) -> list[Message]:
        """The messages behind the position: the server begins with the chunk that has it."""
        given = []
        for raw in found:
            message = message_of(raw, self._consuming.queue)
            offset = message.told["offset"]
            if self._after is None or offset > self._after:
                self._after = offset
                given.append(message)
        return given

    async def aclose(self) -> None:
        await close(self._consuming.connection)
