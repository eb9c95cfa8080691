"""The `sqs` destination: rows as messages of a queue."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from dataflare.connectors.sqs.client import AT_ONCE, Queue
from dataflare.connectors.sqs.config import SqsDestinationConfig
from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.formats.messages.base64 import Base64Encoder
from dataflare.formats.messages.contract import Encoder
from dataflare.sdk.brokers.destination import BrokerDestination
from dataflare.sdk.brokers.rows import MessageMaker
from dataflare.sdk.brokers.writing import DirectWriter
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import Committable, Delivery, DestinationCapabilities, Writer
from dataflare.sdk.messages.build import encoder
from dataflare.sdk.threads import in_thread

_LANES = 4
_REQUEST_BYTES = 256 << 10
"""What each server takes in one request."""
_ATTRIBUTES_MAX = 10
_WAIT_S, _WAIT_MAX_S = 0.05, 2.0
_NOT_TEXT = r"[^\x{9}\x{A}\x{D}\x{20}-\x{D7FF}\x{E000}-\x{FFFD}\x{10000}-\x{10FFFF}]"
"""Characters that SQS does not take."""
_NAME = r"^[A-Za-z0-9!-/:-@\[-`{-~]{1,128}$"
"""What groups and deduplication ids may be."""


class SqsDestination(BrokerDestination):
    """A queue."""

    type = "sqs"
    Config = SqsDestinationConfig
    summary = "Writes messages to a queue of Amazon SQS, each confirmed by the service."
    example = """\
out:
  type: sqs
  inputs: [orders]
  config:
    queue: orders.fifo
    region: eu-central-1
    group: "{customer}"
    id: order_id
"""

    def capabilities(self) -> DestinationCapabilities:
        if self.config.is_fifo:
            return DestinationCapabilities(
                Delivery.IDEMPOTENT,
                f"a row that comes again after a crash has the same '{self.config.id}', and SQS leaves it out within 5 "
                "minutes",
            )
        with_id = f", with the same '{self.config.id}' as attribute" if self.config.id else ""
        return DestinationCapabilities(
            Delivery.REPEATING, f"messages are sent at once, and again after a crash{with_id}"
        )

    @property
    def label(self) -> str:
        return f"queue '{self.config.name}' of SQS at {self.config.server}"

    def _queue(self) -> Queue:
        return Queue(self.config, self.config.queue, self.context.step)

    async def inspect(self) -> Mapping[str, str]:
        return await in_thread(self._inspect)

    def _inspect(self) -> Mapping[str, str]:
        queue = self._queue()
        state = queue.state()
        queue.close()
        shown = f"about {state.visible:,} messages, of {state.size_max:,} bytes at most"
        return {"server": f"SQS at {self.config.server}", f"queue {queue.name}": shown}

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        return await in_thread(self._open, context)

    def _open(self, context: DestinationContext) -> Writer:
        queue = self._queue()
        size_max = queue.state().size_max
        config, shape = self.config, self.config.shape
        shape.check(self.context.step, context.schema)
        made: Encoder = encoder(
            config, self.context, shape.value_columns(context.schema), topic=config.name
        )
        if config.encoding == "base64":
            made = Base64Encoder(made)
        maker = MessageMaker(shape, context.schema, made, lambda: _unfit(config.is_fifo, size_max))
        return SqsWriter(maker, context, self.label, queue, size_max)


def _size() -> pl.Expr:
    """About how many bytes a message has: its body, and its attributes with their types."""
    header = pl.element().struct
    each = header.field("key").str.len_bytes() + header.field("value").bin.size() + 6
    attributes = pl.col("headers").list.eval(each.fill_null(0)).list.sum().fill_null(0)
    return (
        pl.col("value").bin.size().fill_null(0)
        + attributes
        + pl.col("id").str.len_bytes().fill_null(0)
    )


def _unfit(is_fifo: bool, size_max: int) -> Sequence[pl.Expr]:
    """Why SQS would refuse a message."""
    text = pl.col("value").cast(pl.String, strict=False)
    values = pl.element().struct.field("value")
    header = values.cast(pl.String, strict=False)
    no_header = values.is_not_null() & ((values.bin.size() == 0) | header.str.contains(_NOT_TEXT))
    count = pl.col("headers").list.len().fill_null(0)
    reasons = [
        pl.when(pl.col("value").bin.size().fill_null(0) == 0).then(pl.lit("its body is empty")),
        pl.when(text.is_null()).then(pl.lit("its body is not UTF-8: encoding: base64 takes bytes")),
        pl.when(text.str.contains(_NOT_TEXT)).then(
            pl.lit("its body has characters that SQS does not take: encoding: base64 takes all")
        ),
        pl.when(pl.col("headers").list.eval(no_header).list.any()).then(
            pl.lit("an attribute is empty, or has characters that SQS does not take")
        ),
        pl.when(count > _ATTRIBUTES_MAX - (0 if is_fifo else 1)).then(
            pl.format("it has {} attributes, and SQS takes 10 with the id", count)
        ),
        pl.when(_size() > size_max).then(
            pl.format(f"it has about {{}} bytes, and the queue takes {size_max:,}", _size())
        ),
    ]
    if is_fifo:
        for name, what in (("target", "group"), ("id", "deduplication id")):
            reasons.append(
                pl.when(~pl.col(name).str.contains(_NAME)).then(
                    pl.format(
                        f"'{{}}' cannot be a {what}: SQS takes up to 128 letters, digits and signs of ASCII",
                        pl.col(name),
                    )
                )
            )
    else:
        reasons.append(
            pl.when((pl.col("id") == "") | pl.col("id").str.contains(_NOT_TEXT)).then(
                pl.lit("its id is empty, or has characters that SQS does not take")
            )
        )
    return reasons


class SqsWriter(DirectWriter):
    """Sends requests of ten messages, several at a time. Messages of one group follow each other."""

    def __init__(
        self,
        maker: MessageMaker,
        context: DestinationContext,
        place: str,
        queue: Queue,
        size_max: int,
    ) -> None:
        super().__init__(maker, context, place)
        self._queue, self._request_bytes = queue, max(size_max, _REQUEST_BYTES)

    async def send(self, messages: pl.DataFrame) -> None:
        lanes: list[list[dict[str, Any]]] = [[] for _ in range(_LANES)]
        columns = messages.select("target", "value", "id", "headers", size=_size())
        for number, (group, value, id_, headers, size) in enumerate(columns.iter_rows()):
            entry = {"MessageBody": value.decode(), "size": size}
            attributes = _attributes(headers)
            if self._queue.is_fifo:
                entry |= {"MessageGroupId": group, "MessageDeduplicationId": id_}
                number = zlib.crc32(group.encode()) * AT_ONCE
            elif id_ is not None:
                attributes["id"] = {"DataType": "String", "StringValue": id_}
            if attributes:
                entry["MessageAttributes"] = attributes
            lanes[number // AT_ONCE % _LANES].append(entry)
        sent = [in_thread(self._send_lane, lane) for lane in lanes if lane]
        for outcome in await asyncio.gather(*sent, return_exceptions=True):
            if outcome is not None:
                raise outcome

    def _send_lane(self, entries: Sequence[dict[str, Any]]) -> None:
        """Send messages in their order. On a thread."""
        request: list[dict[str, Any]] = []
        room = self._request_bytes
        for entry in entries:
            size = entry.pop("size")
            if request and (len(request) == AT_ONCE or size > room):
                self._send(request)
                request, room = [], self._request_bytes
            request.append({"Id": str(len(request)), **entry})
            room -= size
        self._send(request)

    def _send(self, entries: list[dict[str, Any]]) -> None:
        """Send a request, and again those of its messages that the service did not take. Raises when it takes none for
        some time."""
        wait_s, end = _WAIT_S, time.monotonic() + self._queue.timeout
        while entries:
            failed = self._queue.ask("send_message_batch", Entries=entries).get("Failed", ())
            if not failed:
                return
            why = f"{failed[0]['Code']}: {failed[0].get('Message', '')}"
            if any(each["SenderFault"] for each in failed):
                raise self._not_taken(why)
            if time.monotonic() > end:
                raise self._busy(why)
            ids = {each["Id"] for each in failed}
            entries = [entry for entry in entries if entry["Id"] in ids]
            time.sleep(wait_s)
            wait_s = min(wait_s * 2, _WAIT_MAX_S)

    def _not_taken(self, why: str) -> DataFlareError:
        return SystemError_(
            f"{self._place} refuses a message: {why}",
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
            help="see whether the service works, or send less at a time",
        )

    async def aclose(self) -> None:
        await in_thread(self._queue.close)


def _attributes(headers: Sequence[Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """Text where the value is text, else bytes."""
    made: dict[str, dict[str, Any]] = {}
    for each in headers or ():
        value: bytes | None = each["value"]
        if value is None:
            continue
        try:
            made[each["key"]] = {"DataType": "String", "StringValue": value.decode()}
        except UnicodeDecodeError:
            made[each["key"]] = {"DataType": "Binary", "BinaryValue": value}
    return made
