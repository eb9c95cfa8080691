"""The `kinesis` destination: rows as records of a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
import xxhash

from dataflare.connectors.kinesis.client import Stream
from dataflare.connectors.kinesis.config import KinesisDestinationConfig
from dataflare.sdk.aws.client import BUSY
from dataflare.sdk.aws.sending import Entry, NotTaken, RequestWriter
from dataflare.sdk.brokers.destination import BrokerDestination
from dataflare.sdk.brokers.rows import MessageMaker
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import Committable, Delivery, DestinationCapabilities, Writer
from dataflare.sdk.messages.build import encoder
from dataflare.sdk.threads import in_thread

_REQUEST_BYTES, _RECORD_BYTES = 5 << 20, 1 << 20
"""What a request and a record may have at most."""
_KEY_CHARACTERS = 256
_PASSES = (*BUSY, "InternalFailure", "ServiceUnavailable")
"""Codes of records that are worth sending again."""


class KinesisDestination(BrokerDestination):
    """A stream."""

    type = "kinesis"
    Config = KinesisDestinationConfig
    summary = "Writes records to a stream of Amazon Kinesis, each confirmed by the service."
    example = """\
out:
  type: kinesis
  inputs: [orders]
  config:
    stream: orders
    region: eu-central-1
    partition_key: "{customer}"
"""

    def capabilities(self) -> DestinationCapabilities:
        return DestinationCapabilities(
            Delivery.REPEATING, "records are sent at once, and again after a crash"
        )

    @property
    def label(self) -> str:
        return str(self.config.place)

    async def inspect(self) -> Mapping[str, str]:
        return await in_thread(self._inspect)

    def _inspect(self) -> Mapping[str, str]:
        stream = Stream(self.config, self.context.step)
        state = stream.state()
        stream.close()
        shown = f"{state.status.lower()}; records are kept for {state.kept_s / 3600:g} hours"
        return {"server": f"Kinesis at {self.config.server}", f"stream {self.config.name}": shown}

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        return await in_thread(self._open, context)

    def _open(self, context: DestinationContext) -> Writer:
        config, shape = self.config, self.config.shape
        shape.check(self.context.step, context.schema)
        values = shape.value_columns(context.schema)
        made = encoder(config, self.context, values, topic=config.name)
        maker = MessageMaker(shape, context.schema, made, _unfit)
        stream = Stream(config, self.context.step, calls=config.concurrency)
        return KinesisWriter(maker, context, stream, config)


def _size() -> pl.Expr:
    return pl.col("value").bin.size().fill_null(0) + pl.col("target").str.len_bytes()


def _unfit() -> Sequence[pl.Expr]:
    """Why Kinesis would refuse a record."""
    key = pl.col("target")
    return [
        pl.when(pl.col("value").is_null()).then(pl.lit("its value is NULL")),
        pl.when(key.str.len_chars() == 0).then(pl.lit("its partition key is empty")),
        pl.when(key.str.len_chars() > _KEY_CHARACTERS).then(
            pl.format(
                "its partition key has {} characters, and Kinesis takes 256", key.str.len_chars()
            )
        ),
        pl.when(_size() > _RECORD_BYTES).then(
            pl.format(
                f"it has {{}} bytes with its key, and Kinesis takes {_RECORD_BYTES:,}", _size()
            )
        ),
    ]


class KinesisWriter(RequestWriter):
    """Sends requests of up to 500 records. Records of one key follow each other."""

    entries_max = 500
    names = "'stream'"
    busy_help = "give the stream more shards, or send less at a time"

    def __init__(
        self,
        maker: MessageMaker,
        context: DestinationContext,
        stream: Stream,
        config: KinesisDestinationConfig,
    ) -> None:
        super().__init__(
            maker,
            context,
            config.place,
            request_bytes=_REQUEST_BYTES,
            timeout=config.timeout,
            concurrency=config.concurrency,
        )
        self._stream, self._spreads = stream, config.partition_key is None

    def entries(self, messages: pl.DataFrame) -> Iterator[Entry]:
        columns = messages.select("target", "value", size=_size())
        for key, value, size in columns.iter_rows():
            if self._spreads:
                key = xxhash.xxh3_64_hexdigest(value)
                size += len(key)
            yield Entry(key.encode(), size, {"Data": value, "PartitionKey": key})

    def request(self, values: Sequence[dict[str, Any]]) -> Sequence[NotTaken]:
        answer = self._stream.ask("put_records", Records=values)
        if not answer["FailedRecordCount"]:
            return ()
        return [
            NotTaken(at, code, each.get("ErrorMessage", ""), passes=code in _PASSES)
            for at, each in enumerate(answer["Records"])
            if (code := each.get("ErrorCode")) is not None
        ]

    def close(self) -> None:
        self._stream.close()
