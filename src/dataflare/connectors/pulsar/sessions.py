"""Consume one topic, or one partition of it: alone and in order, or shared with others.

Always true: a message is acknowledged after the checkpoint that has it, never before. Alone, messages come in the order of
their ids, so one that is delivered again is known by its place, and a position is an id.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import pulsar
from msgspec import Struct

from dataflare.connectors.pulsar.client import close, connect, pulsar_errors
from dataflare.connectors.pulsar.config import PulsarSourceConfig
from dataflare.errors import Retry, SystemError_
from dataflare.formats.messages.envelope import HEADERS
from dataflare.model.progress import Position
from dataflare.model.types import BINARY, INT64, STRING, Schema, timestamp
from dataflare.sdk.brokers.queue import Delivered, QueueSession
from dataflare.sdk.brokers.reader import Feed, Message
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import EndOfSplit
from dataflare.sdk.threads import in_thread

TOLD = Schema.of(
    [
        ("topic", STRING),
        ("key", BINARY),
        ("id", STRING),
        ("timestamp", timestamp("ms", "UTC")),
        ("event_time", timestamp("ms", "UTC")),
        ("producer", STRING),
        ("headers", HEADERS),
        ("redelivered", INT64),
    ]
)
"""What Pulsar says of a message beside its value."""
_LOOK_S = 0.5
_QUEUE_MAX = 1_000
_WAITING_BYTES = 16 << 20
_GROUPED_S = 0.5
"""The client sends acknowledgements after 0.1 s, together."""
_DEAD_S = 60.0
"""After this time a broker ends a connection that is silent: twice its keepAliveIntervalSeconds, which is 30 by default."""

Place = tuple[int, int, int]
"""Of a message: its ledger, its entry in that, its number in a batch; -1 without a batch."""
NOWHERE: Place = (-1, -1, -1)


def place_of(id_: Any) -> Place:
    """id_: as the client has it."""
    return id_.ledger_id(), id_.entry_id(), id_.batch_index()


def _text(place: Place) -> str:
    return ":".join(map(str, place))


class Came(Struct, frozen=True):
    """A message as it came. id: by which it is acknowledged."""

    message: Message
    place: Place
    id: Any


def _came(raw: Any, topic: str) -> Came:
    id_ = raw.message_id()
    place = place_of(id_)
    text = _text(place)
    headers = raw.properties()
    value = None if raw.has_null_value() else raw.data()
    key = raw.partition_key()
    told = {
        "topic": topic,
        "key": key.encode() if key else None,
        "id": text,
        "timestamp": raw.publish_timestamp(),
        "event_time": raw.event_timestamp() or None,
        "producer": raw.producer_name(),
        "headers": [{"key": n, "value": v.encode()} for n, v in headers.items()] or None,
        "redelivered": raw.redelivery_count(),
    }
    return Came(
        Message(value, told, f"{topic} message {text}", len(value or b"") + 256), place, id_
    )


class Consuming:
    """A consumer of one topic without partitions, or of one partition. Messages wait here until they are asked for, on a thread of
    the client."""

    def __init__(self, config: PulsarSourceConfig, context: ConnectorContext, topic: str) -> None:
        self.config, self._context, self.topic = config, context, topic
        self._client: Any = None
        self._consumer: Any = None
        self._waiting: deque[Came] = deque()
        self._waiting_bytes = 0
        self._is_paused = self._is_awaited = self._is_stopped = False
        self._pausing = threading.Lock()
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()

    async def begin(self) -> None:
        """Subscribe. Raises what `connect` and `translated` give."""
        self._client, _ = await connect(self.config, self._context)
        try:
            await in_thread(self._subscribe)
        except BaseException:
            await close(self._client)
            raise

    def _subscribe(self) -> None:
        config = self.config
        kinds, places = pulsar.ConsumerType, pulsar.InitialPosition
        # The client's threads and files end with the last reference to it, and it refers to its listener.
        arrived = weakref.WeakMethod(self._arrived)

        def listener(consumer: Any, raw: Any) -> None:
            if (method := arrived()) is not None:
                method(consumer, raw)

        with pulsar_errors(config.server):
            self._consumer = self._client.subscribe(
                self.topic,
                config.subscription,
                consumer_type=kinds.Shared if config.shared else kinds.Exclusive,
                initial_position=places.Latest if config.start == "latest" else places.Earliest,
                receiver_queue_size=min(config.prefetch, _QUEUE_MAX),
                message_listener=listener,
                consumer_name=f"dataflare-{self._context.step}",
            )

    async def last(self) -> Place:
        """Of the last message that is there. Where there is none, its entry is -1."""
        return await in_thread(self._last)

    def _last(self) -> Place:
        with pulsar_errors(self.config.server):
            return place_of(self._consumer.get_last_message_id())

    def _arrived(self, consumer: Any, raw: Any) -> None:
        """On a thread of the client."""
        came = _came(raw, self.topic)
        self._waiting_bytes += came.message.num_bytes
        self._waiting.append(came)
        if len(self._waiting) >= self.config.prefetch or self._waiting_bytes >= _WAITING_BYTES:
            with self._pausing:
                self._is_paused = True
                consumer.pause_message_listener()
        if self._is_awaited:
            self._is_awaited = False
            self._loop.call_soon_threadsafe(self._changed.set)

    async def receive(self, most: int, wait_s: float) -> list[Came]:
        """Raises SystemError_ where the broker does not answer any more."""
        if not self._waiting:
            self._changed.clear()
            self._is_awaited = True
            # One that came in between is not waited for.
            if not self._waiting:
                await self._wait(wait_s)
            self._is_awaited = False
        waiting = self._waiting
        found = [waiting.popleft() for _ in range(min(most, len(waiting)))]
        self._waiting_bytes -= sum(came.message.num_bytes for came in found)
        if found:
            self._heard_at = self._loop.time()
        if self._is_paused and not self._waiting:
            self._go_on()
        return found

    def _go_on(self) -> None:
        with self._pausing:
            if not self._is_stopped:
                self._is_paused = False
                self._consumer.resume_message_listener()

    async def _wait(self, wait_s: float) -> None:
        if self.quiet_s >= self.config.timeout:
            await self.last()
            self._heard_at = self._loop.time()
        try:
            async with asyncio.timeout(wait_s):
                await self._changed.wait()
        except TimeoutError:
            return

    @property
    def quiet_s(self) -> float:
        """For how long nothing was heard of the broker."""
        return self._loop.time() - self._heard_at

    async def acknowledge(self, ids: Sequence[Any]) -> None:
        """Where the broker is gone nothing happens: they are delivered again."""
        await in_thread(self._acknowledge, ids)

    def _acknowledge(self, ids: Sequence[Any]) -> None:
        tell = self._consumer.acknowledge
        if not self.config.shared:
            tell, ids = self._consumer.acknowledge_cumulative, ids[-1:]
        try:
            for id_ in ids:
                tell(id_)
        except pulsar.PulsarException:
            return  # the reader finds out that the broker is gone

    def stop(self) -> None:
        """Take no more."""
        with self._pausing:
            self._is_stopped = True
            self._consumer.pause_message_listener()

    async def aclose(self) -> None:
        await close(self._client)


class OrderedFeed(Feed):
    """A topic that this consumer alone reads. after: the last message before those to read. stop: the last one to read, or
    None: without end."""

    def __init__(self, consuming: Consuming, after: Place, stop: Place | None) -> None:
        self.consuming, self._after, self._stop = consuming, after, stop
        self.bounded = stop is not None
        self._committed = NOWHERE
        # The last message of each part that was given, until it is acknowledged.
        self._open: deque[tuple[Place, Any]] = deque()
        self._heard_at = asyncio.get_running_loop().time()

    async def begin(self) -> None:
        """Raises SystemError_ (E0605) where the topic does not have the place up to which it was read."""
        if self._after == NOWHERE:
            return
        last = await self.consuming.last()
        if last[:2] < self._after[:2]:
            config = self.consuming.config
            raise SystemError_(
                f"topic '{self.consuming.topic}' of Pulsar at {config.server} ends before the message up to which it was "
                "read: it was deleted and made again",
                code="E0605",
                help="run with --fresh to read what the subscription has now",
            )

    def position(self) -> Position:
        return Position({"after": list(self._after)})

    async def take(self, most: int, wait_s: float | None) -> Sequence[Message]:
        loop = asyncio.get_running_loop()
        end = None if wait_s is None else loop.time() + wait_s
        while True:
            if self._stop is not None and (self._stop[1] < 0 or self._after >= self._stop):
                raise EndOfSplit
            left_s = _LOOK_S if end is None else max(0.0, min(_LOOK_S, end - loop.time()))
            found = await self.consuming.receive(most, left_s)
            given = await self._fresh(found)
            if found:
                self._heard_at = loop.time()
            if given or (end is not None and loop.time() >= end):
                return given
            if self.bounded and loop.time() - self._heard_at > self.consuming.config.timeout:
                await self.consuming.last()  # raises where the broker is gone
                if self._after != NOWHERE:
                    raise self._silent()
                # The subscription has nothing: it is new and begins at the end, or other readers had all of it.
                raise EndOfSplit

    def _silent(self) -> SystemError_:
        config = self.consuming.config
        return SystemError_(
            f"topic '{self.consuming.topic}' of Pulsar at {config.server} gave nothing for {config.timeout:g} s behind "
            f"message {_text(self._after)}, and is to be read up to message {_text(self._stop or NOWHERE)}",
            code="E0608",
            retry=Retry.LATER,
            help="raise 'timeout', and run again. If another reader of the subscription acknowledged the messages between, "
            "or they expired, run with --fresh to go on without them",
        )

    async def _fresh(self, found: Sequence[Came]) -> list[Message]:
        given, again = [], None
        for came in found:
            if self._stop is not None and came.place > self._stop:
                self._after = max(self._after, self._stop)
                break
            if came.place > self._after:
                self._after = came.place
                given.append(came.message)
                last = came.id
            elif came.place <= self._committed:
                again = came.id
        if given:
            self._open.append((self._after, last))
        elif again is not None:
            await self.consuming.acknowledge([again])
        return given

    async def committed(self, after: Place) -> None:
        """A checkpoint has the messages up to this one."""
        self._committed = max(self._committed, after)
        id_ = None
        while self._open and self._open[0][0] <= self._committed:
            _, id_ = self._open.popleft()
        if id_ is not None:
            await self.consuming.acknowledge([id_])

    async def aclose(self) -> None:
        self.consuming.stop()


class SharedSession(QueueSession):
    """A subscription that other consumers have too."""

    redelivers_s = 2 * _DEAD_S

    def __init__(self, consuming: Consuming) -> None:
        self._consuming = consuming
        self._asked = self._settled = 0
        # When acknowledgements were sent, and how many were asked for until then.
        self._sent: deque[tuple[float, int]] = deque()

    async def receive(self, most: int, wait_s: float) -> Sequence[Delivered]:
        found = await self._consuming.receive(most, wait_s)
        return [Delivered(came.message, came.message.told["id"], came.id) for came in found]

    async def acknowledge(self, tags: Sequence[Any]) -> int:
        """The broker does not confirm acknowledgements, and the client sends them a little later. So those that were sent before
        the broker answered another request are taken to be there."""
        await self._consuming.acknowledge(tags)
        now = asyncio.get_running_loop().time()
        self._asked += len(tags)
        self._sent.append((now, self._asked))
        if now - self._sent[0][0] < _GROUPED_S:
            return self._settled
        try:
            await self._consuming.last()
        except SystemError_:
            return self._settled  # the reader finds out that the broker is gone
        while self._sent and now - self._sent[0][0] >= _GROUPED_S:
            self._settled = self._sent.popleft()[1]
        return self._settled

    async def stop(self) -> None:
        self._consuming.stop()

    async def aclose(self) -> None:
        await self._consuming.aclose()
