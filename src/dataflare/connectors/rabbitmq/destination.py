"""The `rabbitmq` destination: rows as messages to an exchange, confirmed by the server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import polars as pl
from aiormq import exceptions as said
from aiormq import spec

from dataflare.connectors.rabbitmq.client import close, connect, rabbitmq_errors
from dataflare.connectors.rabbitmq.config import RabbitmqDestinationConfig
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
_NAME_BYTES = 255
_CONTENT = {"json": "application/json", "text": "text/plain"}


class RabbitmqDestination(BrokerDestination):
    """An exchange, or queues by their names."""

    type = "rabbitmq"
    Config = RabbitmqDestinationConfig
    summary = "Writes messages to exchanges and queues of RabbitMQ, each confirmed by the server."
    example = """\
out:
  type: rabbitmq
  inputs: [orders]
  config:
    connection: "${secret:RABBITMQ}"
    exchange: shop
    routing_key: orders.{country}
    id: order_id
"""

    def capabilities(self) -> DestinationCapabilities:
        reason = "messages are sent at once, and again after a crash"
        if self.config.id is not None:
            reason += f"; consumers know them by the message_id, which is '{self.config.id}'"
        return DestinationCapabilities(Delivery.REPEATING, reason)

    @property
    def label(self) -> str:
        config = self.config
        what = (
            f"exchange '{config.exchange}'" if config.exchange else f"queue '{config.routing_key}'"
        )
        return f"{what} of RabbitMQ at {config.server}"

    async def inspect(self) -> Mapping[str, str]:
        """For `check`: whether the exchange, or the queue, is there."""
        config = self.config
        connection = await connect(config, self.context)
        try:
            with rabbitmq_errors(config.server):
                channel = await connection.channel()
                if config.exchange:
                    await channel.exchange_declare(config.exchange, passive=True)
                elif len(config.shape.target) == 1:
                    await channel.queue_declare(config.routing_key, passive=True)
        finally:
            await close(connection)
        return {"server": f"RabbitMQ at {config.server}", "writes": self.label}

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        maker = await in_thread(self._maker, context.schema)
        connection = await connect(self.config, self.context)
        made = RabbitmqWriter(maker, context, self.label, self.config, connection)
        await made.begin()
        return made

    def _maker(self, schema: Schema) -> MessageMaker:
        config, shape = self.config, self.config.shape
        shape.check(self.context.step, schema)
        made = encoder(config, self.context, shape.value_columns(schema), topic=self.label)

        def too_long(name: str, what: str) -> pl.Expr:
            text = pl.lit(f"its {what} has more than {_NAME_BYTES} bytes")
            return pl.when(pl.col(name).str.len_bytes() > _NAME_BYTES).then(text)

        unfit = [
            pl.when(pl.col("value").is_null()).then(pl.lit("its value is NULL")),
            too_long("target", "routing key"),
            too_long("id", "id"),
        ]
        return MessageMaker(shape, schema, made, lambda: unfit)


class RabbitmqWriter(DirectWriter):
    """Publishes, and waits for the server's word."""

    def __init__(
        self,
        maker: MessageMaker,
        context: DestinationContext,
        place: str,
        config: RabbitmqDestinationConfig,
        connection: Any,
    ) -> None:
        super().__init__(maker, context, place)
        self._config, self._connection = config, connection
        self._channel: Any = None

    async def begin(self) -> None:
        with rabbitmq_errors(self._config.server):
            self._channel = await self._connection.channel(publisher_confirms=True)

    async def send(self, messages: pl.DataFrame) -> None:
        for part in messages.iter_slices(_AT_ONCE):
            columns = part.select("target", "value", "id", "headers")
            with rabbitmq_errors(self._config.server):
                try:
                    async with asyncio.TaskGroup() as group:
                        for row in columns.iter_rows():
                            group.create_task(self._publish(*row))
                except BaseExceptionGroup as several:
                    raise several.exceptions[0] from several

    async def _publish(
        self, key: str, value: bytes, id_: str | None, headers: list[dict[str, Any]] | None
    ) -> None:
        config = self._config
        about = spec.Basic.Properties(
            delivery_mode=2 if config.persistent else 1,
            message_id=id_,
            content_type=_CONTENT.get(config.format, "application/octet-stream"),
            headers={each["key"]: _text(each["value"]) for each in headers or ()} or None,
        )
        try:
            await self._channel.basic_publish(
                value,
                exchange=config.exchange,
                routing_key=key,
                properties=about,
                mandatory=True,
                timeout=config.timeout,
            )
        except said.DeliveryError as error:
            raise SystemError_(
                f"{self._place} does not take a message with the routing key '{key}': no queue gets it, or the queue refuses "
                "it",
                code="E0604",
                step=self._context.step,
                help="bind a queue to the exchange, or look at 'routing_key' and at the limits of the queue",
            ) from error

    async def aclose(self) -> None:
        await close(self._connection)


def _text(value: bytes | None) -> str | bytes | None:
    """Text where it is text: most consumers expect that of a header."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
