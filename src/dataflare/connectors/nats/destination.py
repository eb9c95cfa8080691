"""The `nats` destination: rows as messages of subjects that a stream has."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import polars as pl
from nats.js.errors import NotFoundError

from dataflare.connectors.nats.client import close, connect, nats_errors
from dataflare.connectors.nats.config import NatsDestinationConfig
from dataflare.connectors.nats.feeds import MSG_ID
from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.model.types import Schema
from dataflare.sdk.brokers.destination import BrokerDestination
from dataflare.sdk.brokers.rows import MessageMaker
from dataflare.sdk.brokers.writing import DirectWriter
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import Committable, Delivery, DestinationCapabilities, Writer
from dataflare.sdk.messages.build import encoder
from dataflare.sdk.threads import in_thread

_AT_ONCE = 1_000
_SUBJECT = r"^[^\s.*>]+(\.[^\s.*>]+)*$"


class NatsDestination(BrokerDestination):
    """Subjects."""

    type = "nats"
    Config = NatsDestinationConfig
    summary = "Writes messages to subjects of NATS JetStream."
    example = """\
out:
  type: nats
  inputs: [orders]
  config:
    connection: nats://localhost:4222
    subject: orders.clean.{country}
    id: order_id
"""

    def capabilities(self) -> DestinationCapabilities:
        if self.config.id is not None:
            return DestinationCapabilities(
                Delivery.IDEMPOTENT,
                f"a row that comes again after a crash has the same '{self.config.id}', and the stream leaves it out "
                "within its duplicate window",
            )
        return DestinationCapabilities(
            Delivery.REPEATING,
            "messages are sent at once, and again after a crash; they have no 'id'",
        )

    @property
    def label(self) -> str:
        return f"subject '{self.config.subject}' of NATS at {self.config.server}"

    async def inspect(self) -> Mapping[str, str]:
        connection = await connect(self.config, self.context)
        try:
            with nats_errors(self.config.server, connection):
                found = "known for each row"
                if len(self.config.shape.target) == 1:
                    jetstream = connection.jetstream(timeout=self.config.timeout)
                    found = await self._stream(jetstream)
                version = connection.connected_server_version
        finally:
            await close(connection)
        return {"server": f"NATS {version} at {self.config.server}", "stream": str(found)}

    async def _stream(self, jetstream: Any) -> str:
        """The name of the stream that has the subject."""
        try:
            return str(await jetstream.find_stream_name_by_subject(self.config.subject))
        except NotFoundError as error:
            raise SystemError_(
                f"no stream of NATS at {self.config.server} has the subject '{self.config.subject}'",
                code="E0604",
                step=self.context.step,
                help="look at 'subject', or make a stream that has it with the tools of NATS",
            ) from error

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        connection = await connect(self.config, self.context)
        maker = await in_thread(self._maker, context.schema, connection.max_payload)
        return NatsWriter(maker, context, self.label, self.config, connection)

    def _maker(self, schema: Schema, payload_max: int) -> MessageMaker:
        config, shape = self.config, self.config.shape
        shape.check(self.context.step, schema)
        made = encoder(config, self.context, shape.value_columns(schema), topic=config.subject)
        size = pl.col("value").bin.size().fill_null(0)
        headers = pl.element().struct.field("value").bin.size().fill_null(0) + 64
        size += pl.col("headers").list.eval(headers).list.sum().fill_null(0) + 128
        subject = pl.col("target")
        odd = r"[\r\n]|^\s|\s$"
        header = pl.element().struct.field("value")
        text = header.cast(pl.String, strict=False)
        is_odd = header.is_not_null() & (text.is_null() | text.str.contains(odd))
        unfit = [
            pl.when(pl.col("value").is_null()).then(pl.lit("its value is NULL")),
            pl.when(pl.col("id").str.contains(odd)).then(
                pl.lit("its id has spaces at its ends, or line feeds")
            ),
            pl.when(pl.col("headers").list.eval(is_odd).list.any()).then(
                pl.lit("a header is not text, or has spaces at its ends, or line feeds")
            ),
            pl.when(~subject.str.contains(_SUBJECT)).then(
                pl.format("'{}' cannot be the subject of a message", subject)
            ),
            pl.when(size > payload_max).then(
                pl.format(f"it has about {{}} bytes, and the server takes {payload_max:,}", size)
            ),
        ]
        return MessageMaker(shape, schema, made, lambda: unfit)


class NatsWriter(DirectWriter):
    """Publishes, and waits for the stream's word."""

    def __init__(
        self,
        maker: MessageMaker,
        context: DestinationContext,
        place: str,
        config: NatsDestinationConfig,
        connection: Any,
    ) -> None:
        super().__init__(maker, context, place)
        self._config, self._connection = config, connection
        self._jetstream = connection.jetstream(timeout=config.timeout)

    async def send(self, messages: pl.DataFrame) -> None:
        for part in messages.iter_slices(_AT_ONCE):
            with nats_errors(self._config.server, self._connection):
                await self._send(part)

    async def _send(self, messages: pl.DataFrame) -> None:
        promised = []
        columns = messages.select("target", "value", "id", "headers")
        for subject, value, id_, headers in columns.iter_rows():
            told = {
                each["key"]: each["value"].decode()
                for each in headers or ()
                if each["value"] is not None
            }
            if id_ is not None:
                told[MSG_ID] = id_
            promised.append(
                await self._jetstream.publish_async(subject, value, headers=told or None)
            )
        try:
            async with asyncio.timeout(self._config.timeout):
                await asyncio.gather(*promised)
        except TimeoutError as error:
            raise self._unanswered() from error

    def _unanswered(self) -> DataFlareError:
        return SystemError_(
            f"NATS at {self._config.server} did not say in time that a stream has the messages",
            code="E0608",
            step=self._context.step,
            retry=Retry.LATER,
            help="see whether the server works, or raise 'timeout'",
        )

    async def aclose(self) -> None:
        await close(self._connection)
