"""The `kinesis` destination: rows as records of a stream."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import xxhash

from dataflare.connectors.kinesis.client import Stream
from dataflare.connectors.kinesis.config import KinesisDestinationConfig
from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.model.types import Schema
from dataflare.sdk.aws.client import BUSY
from dataflare.sdk.brokers.rows import MessageMaker
from dataflare.sdk.brokers.writing import DirectWriter
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import (
    Committable,
    Committer,
    Delivery,
    DestinationCapabilities,
    DestinationConnector,
    NoCommitter,
    Target,
    Writer,
)
from dataflare.sdk.messages.build import encoder
from dataflare.sdk.threads import in_thread

_LANES = 4
_AT_ONCE, _REQUEST_BYTES, _RECORD_BYTES = 500, 5 << 20, 1 << 20
"""What a request and a record may have at most."""
_KEY_CHARACTERS = 256
_WAIT_S, _WAIT_MAX_S = 0.1, 3.0
_PASSES = (*BUSY, "InternalFailure", "ServiceUnavailable")
"""Codes of records that are worth sending again."""


class KinesisDestination(DestinationConnector):
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

    def writes_to(self) -> Target | None:
        return Target(self.config.place, shared=True)

    def identity(self) -> str | None:
        return str(self.config.place)

    async def inspect(self) -> Mapping[str, str]:
        return await in_thread(self._inspect)

    def _inspect(self) -> Mapping[str, str]:
        stream = Stream(self.config, self.context.step)
        state = stream.state()
        stream.close()
        shown = f"{state.status.lower()}; records are kept for {state.kept_s / 3600:g} hours"
        return {"server": f"Kinesis at {self.config.server}", f"stream {self.config.name}": shown}

    async def validate(self, schema: Schema) -> None:
        if schema.names:
            self.config.shape.check(self.context.step, schema)
        await self.inspect()

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        return await in_thread(self._open, context)

    def _open(self, context: DestinationContext) -> Writer:
        config, shape = self.config, self.config.shape
        shape.check(self.context.step, context.schema)
        values = shape.value_columns(context.schema)
        made = encoder(config, self.context, values, topic=config.name)
        maker = MessageMaker(shape, context.schema, made, _unfit)
        stream = Stream(config, self.context.step)
        return KinesisWriter(maker, context, stream, config)

    async def committer(self, context: DestinationContext) -> Committer:
        return NoCommitter()


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


class KinesisWriter(DirectWriter):
    """Sends requests of up to 500 records, several at a time. Records of one key follow each other."""

    def __init__(
        self,
        maker: MessageMaker,
        context: DestinationContext,
        stream: Stream,
        config: KinesisDestinationConfig,
    ) -> None:
        super().__init__(maker, context, config.place)
        self._stream, self._spreads = stream, config.partition_key is None
        self._timeout = config.timeout

    async def send(self, messages: pl.DataFrame) -> None:
        lanes: list[list[tuple[int, dict[str, Any]]]] = [[] for _ in range(_LANES)]
        columns = messages.select("target", "value", size=_size())
        for key, value, size in columns.iter_rows():
            if self._spreads:
                key = xxhash.xxh3_64_hexdigest(value)
                size += len(key)
            record = {"Data": value, "PartitionKey": key}
            lanes[zlib.crc32(key.encode()) % _LANES].append((size, record))
        sent = [in_thread(self._send_lane, lane) for lane in lanes if lane]
        for outcome in await asyncio.gather(*sent, return_exceptions=True):
            if outcome is not None:
                raise outcome

    def _send_lane(self, records: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """Send records in their order. On a thread."""
        request: list[dict[str, Any]] = []
        room = _REQUEST_BYTES
        for size, record in records:
            if request and (len(request) == _AT_ONCE or size > room):
                self._send(request)
                request, room = [], _REQUEST_BYTES
            request.append(record)
            room -= size
        self._send(request)

    def _send(self, records: list[dict[str, Any]]) -> None:
        """Send a request, and again those of its records that were not taken. Raises when none was taken for some
        time."""
        wait_s, end = _WAIT_S, time.monotonic() + self._timeout
        while records:
            answer = self._stream.ask("put_records", Records=records)
            if not answer["FailedRecordCount"]:
                return
            failed = [
                (record, outcome)
                for record, outcome in zip(records, answer["Records"], strict=True)
                if outcome.get("ErrorCode") is not None
            ]
            code = failed[0][1]["ErrorCode"]
            why = f"{code}: {failed[0][1].get('ErrorMessage', '')}"
            if any(outcome["ErrorCode"] not in _PASSES for _, outcome in failed):
                raise self._not_taken(why)
            if len(failed) < len(records):
                wait_s, end = _WAIT_S, time.monotonic() + self._timeout
            elif time.monotonic() > end:
                raise self._busy(why)
            records = [record for record, _ in failed]
            time.sleep(wait_s)
            wait_s = min(wait_s * 2, _WAIT_MAX_S)

    def _not_taken(self, why: str) -> DataFlareError:
        return SystemError_(
            f"{self._place} refuses a record: {why}",
            code="E0600",
            step=self._context.step,
            help="fix the cause that the service reports, and run again",
        )

    def _busy(self, why: str) -> DataFlareError:
        return SystemError_(
            f"{self._place} takes no more now: {why}",
            code="E0607",
            step=self._context.step,
            retry=Retry.LATER,
            help="give the stream more shards, or send less at a time",
        )

    async def aclose(self) -> None:
        await in_thread(self._stream.close)
