"""The `mqtt` destination: rows as messages, acknowledged by the broker."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import polars as pl
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from dataflare.connectors.mqtt.client import MqttConnection
from dataflare.connectors.mqtt.config import MqttDestinationConfig
from dataflare.errors import SystemError_
from dataflare.model.types import Schema
from dataflare.sdk.brokers.destination import BrokerDestination
from dataflare.sdk.brokers.rows import MessageMaker
from dataflare.sdk.brokers.writing import DirectWriter
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import Committable, Delivery, DestinationCapabilities, Writer
from dataflare.sdk.messages.build import encoder
from dataflare.sdk.threads import in_thread

_AT_ONCE = 500
_TEXT_BYTES = 65_535


class MqttDestination(BrokerDestination):
    """A topic, or one for each value of a column."""

    type = "mqtt"
    Config = MqttDestinationConfig
    summary = "Writes messages to topics of an MQTT 5 broker, each acknowledged."
    example = """\
out:
  type: mqtt
  inputs: [alarms]
  config:
    connection: mqtt://localhost:1883
    topic: plant/{machine}/alarm
"""

    def capabilities(self) -> DestinationCapabilities:
        reason = "messages are sent at once, and again after a crash"
        if self.config.id is not None:
            reason += (
                f"; subscribers know them by the user property id, which is '{self.config.id}'"
            )
        return DestinationCapabilities(Delivery.REPEATING, reason)

    @property
    def label(self) -> str:
        return f"topic '{self.config.topic}' of the MQTT broker at {self.config.server}"

    async def inspect(self) -> Mapping[str, str]:
        connection = MqttConnection(self.config, self.context)
        try:
            await connection.begin()
        finally:
            await connection.aclose()
        return {"server": f"MQTT broker at {self.config.server}"}

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        maker = await in_thread(self._maker, context.schema)
        connection = MqttConnection(self.config, self.context)
        try:
            await connection.begin()
        except BaseException:
            await connection.aclose()
            raise
        return MqttWriter(maker, context, self.label, self.config, connection)

    def _maker(self, schema: Schema) -> MessageMaker:
        config, shape = self.config, self.config.shape
        shape.check(self.context.step, schema)
        made = encoder(config, self.context, shape.value_columns(schema), topic=config.topic)
        topic = pl.col("target")
        value = pl.element().struct.field("value")
        is_odd = value.is_not_null() & (
            value.cast(pl.String, strict=False).is_null() | (value.bin.size() > _TEXT_BYTES)
        )
        unfit = [
            pl.when(pl.col("value").is_null()).then(pl.lit("its value is NULL")),
            pl.when((topic == "") | topic.str.contains(r"[+#\x00]") | (topic.str.len_bytes() > _TEXT_BYTES))
            .then(pl.format("'{}' cannot be the topic of a message", topic)),
            pl.when(pl.col("id").str.len_bytes() > _TEXT_BYTES).then(pl.lit("its id is too long")),
            pl.when(pl.col("headers").list.eval(is_odd).list.any())
            .then(pl.lit("a user property is not text, or is too long")),
        ]  # fmt: skip
        return MessageMaker(shape, schema, made, lambda: unfit)


class MqttWriter(DirectWriter):
    """Publishes, and waits for the broker's word."""

    def __init__(
        self,
        maker: MessageMaker,
        context: DestinationContext,
        place: str,
        config: MqttDestinationConfig,
        connection: MqttConnection,
    ) -> None:
        super().__init__(maker, context, place)
        self._config, self._connection = config, connection

    async def send(self, messages: pl.DataFrame) -> None:
        for part in messages.iter_slices(_AT_ONCE):
            await in_thread(self._send, part)
            if self._connection.refused:
                raise SystemError_(
                    f"{self._place} refuses a message: {self._connection.refused[0]}",
                    code="E0602",
                    step=self._context.step,
                    help="grant the user the right to write the topic, and look at the broker's limits",
                )

    def _send(self, messages: pl.DataFrame) -> None:
        config, connection = self._config, self._connection
        columns = messages.select("target", "value", "id", "headers")
        sent = [
            connection.client.publish(
                topic, value, qos=config.qos, retain=config.retain, properties=_about(id_, headers)
            )
            for topic, value, id_, headers in columns.iter_rows()
        ]
        end = time.monotonic() + config.timeout
        for each in sent:
            while not each.is_published():
                if each.rc or connection.lost.is_set() or time.monotonic() > end:
                    raise connection.gone()
                each.wait_for_publish(0.1)

    async def aclose(self) -> None:
        await self._connection.aclose()


def _about(id_: str | None, headers: list[dict[str, Any]] | None) -> Properties:
    made = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    pairs = [(h["key"], h["value"].decode()) for h in headers or () if h["value"] is not None]
    if id_ is not None:
        pairs.append(("id", id_))
    if pairs:
        made.UserProperty = pairs
    return made
