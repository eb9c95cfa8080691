"""The `pulsar` destination: rows as messages of topics, each confirmed by the broker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import pulsar

from dataflare.connectors.pulsar.client import close, connect, pulsar_errors
from dataflare.connectors.pulsar.config import TOPIC, PulsarDestinationConfig
from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.model.types import Schema
from dataflare.sdk.brokers.destination import BrokerDestination
from dataflare.sdk.brokers.errors import no_answer
from dataflare.sdk.brokers.rows import MessageMaker
from dataflare.sdk.brokers.writing import DirectWriter
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import Committable, Delivery, DestinationCapabilities, Writer
from dataflare.sdk.messages.build import encoder
from dataflare.sdk.threads import in_thread

_AT_ONCE = 10_000
_PRODUCERS_MAX = 500
_PENDING_MAX = 1_000
_DELAY_MS = 5


class PulsarDestination(BrokerDestination):
    """Topics."""

    type = "pulsar"
    Config = PulsarDestinationConfig
    summary = "Writes messages to topics of Apache Pulsar, each confirmed by the broker."
    example = """\
out:
  type: pulsar
  inputs: [orders]
  config:
    connection: pulsar://localhost:6650
    topic: orders-{country}
    key: order_id
"""

    def capabilities(self) -> DestinationCapabilities:
        return DestinationCapabilities(
            Delivery.REPEATING, "messages are sent at once, and again after a crash"
        )

    @property
    def label(self) -> str:
        return f"topic '{self.config.topic}' of Pulsar at {self.config.server}"

    async def inspect(self) -> Mapping[str, str]:
        """For `check`: whether the broker lets the topic be written."""
        client, told = await connect(self.config, self.context)

        def ask() -> None:
            with pulsar_errors(self.config.server):
                client.create_producer(self.config.topic).close()

        try:
            if len(self.config.shape.target) == 1:
                await in_thread(ask)
        finally:
            await close(client)
        return {"server": f"Pulsar {told.version} at {self.config.server}", "writes": self.label}

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        client, told = await connect(self.config, self.context)
        maker = await in_thread(self._maker, context.schema, told.message_bytes)
        return PulsarWriter(maker, context, self.label, self.config, client)

    def _maker(self, schema: Schema, bytes_max: int) -> MessageMaker:
        config, shape = self.config, self.config.shape
        shape.check(self.context.step, schema)
        made = encoder(config, self.context, shape.value_columns(schema), topic=config.topic)
        target, header = pl.col("target"), pl.element().struct.field("value")
        headers = header.bin.size().fill_null(0) + 64
        size = pl.col("value").bin.size() + pl.col("id").str.len_bytes().fill_null(0) + 256
        size += pl.col("headers").list.eval(headers).list.sum().fill_null(0)
        is_bytes = header.is_not_null() & header.cast(pl.String, strict=False).is_null()
        unfit = [
            pl.when(pl.col("value").is_null()).then(pl.lit("its value is NULL")),
            pl.when(~target.str.contains(TOPIC)).then(
                pl.format("'{}' cannot be the name of a topic", target)
            ),
            pl.when(pl.col("headers").list.eval(is_bytes).list.any()).then(
                pl.lit("the value of a header is not text")
            ),
            pl.when(size > bytes_max).then(
                pl.format(f"it has about {{}} bytes, and the broker takes {bytes_max:,}", size)
            ),
        ]
        return MessageMaker(shape, schema, made, lambda: unfit)


class PulsarWriter(DirectWriter):
    """Sends, and waits for the broker's word."""

    def __init__(
        self,
        maker: MessageMaker,
        context: DestinationContext,
        place: str,
        config: PulsarDestinationConfig,
        client: Any,
    ) -> None:
        super().__init__(maker, context, place)
        self._config, self._client = config, client
        self._producers: dict[str, Any] = {}

    async def send(self, messages: pl.DataFrame) -> None:
        for part in messages.iter_slices(_AT_ONCE):
            await in_thread(self._send, part)

    def _send(self, messages: pl.DataFrame) -> None:
        refused: list[pulsar.Result] = []
        confirmed = 0

        def told(result: pulsar.Result, _: Any) -> None:
            """On a thread of the client."""
            nonlocal confirmed
            if result == pulsar.Result.Ok:
                confirmed += 1
            else:
                refused.append(result)

        columns = messages.select("target", "value", "id", "headers")
        with pulsar_errors(self._config.server):
            for topic, value, key, headers in columns.iter_rows():
                self._producer(topic).send_async(
                    value,
                    told,
                    partition_key=key,
                    properties={
                        each["key"]: each["value"].decode()
                        for each in headers or ()
                        if each["value"] is not None
                    },
                )
            for producer in self._producers.values():
                producer.flush()
        if refused or confirmed != messages.height:
            raise self._unconfirmed(refused)

    def _producer(self, topic: str) -> Any:
        if topic not in self._producers:
            if len(self._producers) >= _PRODUCERS_MAX:
                for producer in self._producers.values():
                    producer.close()
                self._producers.clear()
            self._producers[topic] = self._client.create_producer(
                topic,
                send_timeout_millis=max(1, int(self._config.timeout * 1_000)),
                block_if_queue_full=True,
                max_pending_messages=_PENDING_MAX,
                batching_enabled=True,
                batching_max_publish_delay_ms=_DELAY_MS,
            )
        return self._producers[topic]

    def _unconfirmed(self, results: list[pulsar.Result]) -> DataFlareError:
        place = f"Pulsar at {self._config.server}"
        if not results or results[0] == pulsar.Result.Timeout:
            return no_answer(place, noun="broker", step=self._context.step)
        return SystemError_(
            f"{place} has not taken {len(results):,} messages: {results[0].name}",
            code="E0607",
            step=self._context.step,
            retry=Retry.LATER,
            help="see what the broker says of it, and run again",
        )

    async def aclose(self) -> None:
        await close(self._client)
