"""The `sqs` destination: rows as messages of a queue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from dataflare.connectors.sqs.client import AT_ONCE, Queue
from dataflare.connectors.sqs.config import SqsDestinationConfig
from dataflare.formats.messages.base64 import Base64Encoder
from dataflare.formats.messages.contract import Encoder
from dataflare.sdk.aws.client import BUSY
from dataflare.sdk.aws.sending import Entry, NotTaken, RequestWriter
from dataflare.sdk.brokers.destination import BrokerDestination
from dataflare.sdk.brokers.rows import MessageMaker
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import Committable, Delivery, DestinationCapabilities, Writer
from dataflare.sdk.messages.build import encoder
from dataflare.sdk.threads import in_thread

_REQUEST_BYTES = 256 << 10
"""What each server takes in one request."""
_ATTRIBUTES_MAX = 10
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
        config = self.config
        return Queue(config, config.queue, self.context.step, calls=config.concurrency)

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
        return SqsWriter(maker, context, self.label, queue, size_max, config.concurrency)


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


class SqsWriter(RequestWriter):
    """Sends requests of ten messages. Messages of one group follow each other."""

    entries_max = AT_ONCE
    names = "'queue'"
    busy_help = "see whether the service works, or send less at a time"

    def __init__(
        self,
        maker: MessageMaker,
        context: DestinationContext,
        place: str,
        queue: Queue,
        size_max: int,
        concurrency: int,
    ) -> None:
        super().__init__(
            maker,
            context,
            place,
            request_bytes=max(size_max, _REQUEST_BYTES),
            timeout=queue.timeout,
            concurrency=concurrency,
        )
        self._queue = queue

    def entries(self, messages: pl.DataFrame) -> Iterator[Entry]:
        columns = messages.select("target", "value", "id", "headers", size=_size())
        for number, (group, value, id_, headers, size) in enumerate(columns.iter_rows()):
            made = {"MessageBody": value.decode()}
            attributes = _attributes(headers)
            if self._queue.is_fifo:
                made |= {"MessageGroupId": group, "MessageDeduplicationId": id_}
                key = group.encode()
            else:
                key = b"%d" % (number // AT_ONCE)  # ten that follow each other make a request
                if id_ is not None:
                    attributes["id"] = {"DataType": "String", "StringValue": id_}
            if attributes:
                made["MessageAttributes"] = attributes
            yield Entry(key, size, made)

    def request(self, values: Sequence[dict[str, Any]]) -> Sequence[NotTaken]:
        entries = [{"Id": str(at), **value} for at, value in enumerate(values)]
        answer = self._queue.ask("send_message_batch", Entries=entries)
        return [
            NotTaken(
                int(each["Id"]),
                each["Code"],
                each.get("Message", ""),
                passes=not each["SenderFault"] or each["Code"] in BUSY,
            )
            for each in answer.get("Failed", ())
        ]

    def close(self) -> None:
        self._queue.close()


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
