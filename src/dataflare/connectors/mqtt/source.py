"""The `mqtt` source: the messages of a session that the broker keeps, one split."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from dataflare.connectors.mqtt.client import MqttConnection
from dataflare.connectors.mqtt.config import MqttSourceConfig
from dataflare.formats.messages.envelope import HEADERS
from dataflare.model.progress import Split
from dataflare.model.types import BOOL, INT8, STRING, Schema
from dataflare.sdk.brokers.queue import Delivered, QueueSession, QueueSource
from dataflare.sdk.brokers.reader import Message
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import Replay, SourceCapabilities

TOLD = Schema.of(
    [
        ("topic", STRING),
        ("id", STRING),
        ("headers", HEADERS),
        ("qos", INT8),
        ("retain", BOOL),
        ("content_type", STRING),
    ]
)
"""What MQTT says of a message beside its value."""


class MqttSource(QueueSource):
    """Topics."""

    type = "mqtt"
    Config = MqttSourceConfig
    summary = "Reads topics of an MQTT 5 broker; messages are acknowledged after the checkpoint."
    example = """\
temperatures:
  type: mqtt
  config:
    connection: mqtt://localhost:1883
    topic: plant/+/temperature
    client_id: dataflare-temperatures
    metadata: [topic]
  schema: {at: "timestamp[ms, UTC]", celsius: float64}
"""
    told = TOLD

    def capabilities(self) -> SourceCapabilities:
        known = f"and known by their user property '{self.config.id}'"
        if self.config.id is None:
            known = "and one that is delivered again comes twice: 'id' names the user property that tells them apart"
        return SourceCapabilities(
            replay=Replay.REDELIVERED,
            replay_reason=f"messages are acknowledged after it, {known}",
            repeats=self.config.id is None,
            bounded=False,
            chunks=True,
            at_once=True,
        )

    @property
    def expects_ids(self) -> bool:
        return self.config.id is not None

    @property
    def label(self) -> str:
        return ", ".join(f"topic '{topic}'" for topic in self.config.topics)

    async def validate(self) -> None:
        await self.inspect()

    async def inspect(self) -> Mapping[str, str]:
        """For `check`: whether the broker takes the login. The session is left alone."""
        connection = MqttConnection(self.config, self.context)
        try:
            await connection.begin()
        finally:
            await connection.aclose()
        return {"server": f"MQTT broker at {self.config.server}"}

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return [self.queue_split(self.config.client_id, carried, None)]

    async def session(self, split: Split) -> tuple[QueueSession, int]:
        made = MqttSession(self.config, self.context)
        try:
            await made.begin()
        except BaseException:
            await made.aclose()
            raise
        return made, self.config.prefetch


class MqttSession(QueueSession):
    """Subscribed topics. Messages wait here until they are asked for, at most `prefetch` of them."""

    def __init__(self, config: MqttSourceConfig, context: ConnectorContext) -> None:
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Any] = deque()
        self._came = asyncio.Event()
        # Of those that are to be acknowledged: how many have come, and the numbers of those that were.
        self._arrived, self._settled = 0, 0
        self._acknowledged: deque[int] = deque()
        self.connection = MqttConnection(
            config,
            context,
            session=(config.client_id, config.session_expiry),
            receive_maximum=config.prefetch,
            on_message=self._on_message,
        )

    async def begin(self) -> None:
        await self.connection.begin()
        await self.connection.subscribe(self._config.topics)

    def _on_message(self, message: Any) -> None:
        """On the client's thread."""
        self._arrived += bool(message.qos)
        self._waiting.append((message, self._arrived))
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._came.set)

    async def receive(self, most: int, wait_s: float) -> Sequence[Delivered]:
        if not self._waiting:
            if self.connection.lost.is_set():
                raise self.connection.gone()
            self._came.clear()
            if not self._waiting:
                try:
                    async with asyncio.timeout(wait_s):
                        await self._came.wait()
                except TimeoutError:
                    return ()
        found = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        return [self._delivered(*each) for each in found]

    def _delivered(self, raw: Any, number: int) -> Delivered:
        about = dict(raw.properties.UserProperty) if hasattr(raw.properties, "UserProperty") else {}
        pairs = getattr(raw.properties, "UserProperty", [])
        id_ = about.get(self._config.id) if self._config.id is not None else None
        told = {
            "topic": raw.topic,
            "id": id_,
            "headers": [{"key": name, "value": value.encode()} for name, value in pairs] or None,
            "qos": raw.qos,
            "retain": raw.retain,
            "content_type": getattr(raw.properties, "ContentType", None),
        }
        place = f"{raw.topic} message {id_ if id_ is not None else raw.mid}"
        message = Message(bytes(raw.payload), told, place, len(raw.payload) + 128)
        return Delivered(message, id_, (raw.mid, raw.qos, number))

    async def acknowledge(self, tags: Sequence[Any]) -> int:
        """A broker does not confirm an acknowledgement. But it sends at most `prefetch` messages without one, so it has that of
        each message after which as many came."""
        if self.connection.lost.is_set():
            return self._settled
        for mid, qos, number in tags:
            if qos:
                self.connection.client.ack(mid, qos)
            self._acknowledged.append(number)
        waiting = self._acknowledged
        while waiting and self._arrived - waiting[0] >= self._config.prefetch:
            waiting.popleft()
            self._settled += 1
        return self._settled

    async def aclose(self) -> None:
        await self.connection.aclose()
