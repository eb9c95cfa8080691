"""Read one segment of a table by scans, or one shard of its stream.

Always true: a segment goes on behind the last key that was given; records of a shard come in their order, and a position
is the number of the last one. A part that was read to its end has a position that says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from botocore.exceptions import ClientError

from dataflare.connectors.dynamodb import items
from dataflare.connectors.dynamodb.client import Table
from dataflare.errors import SystemError_
from dataflare.model.progress import Position
from dataflare.model.types import STRING, Schema, timestamp
from dataflare.sdk.aws.client import code_of
from dataflare.sdk.aws.feed import Answer, Over, PolledFeed
from dataflare.sdk.brokers.reader import Message

TOLD = Schema.of([("sequence", STRING), ("shard", STRING), ("timestamp", timestamp("ms", "UTC"))])
"""What a stream says of a change beside its item."""
_OPTION = "'table'"
_SCAN_ITEMS, _RECORDS_MAX = 1_000, 1_000
_EMPTY_TO_STOP = 3
"""An open shard does not say that nothing is left: it is asked so often without a record."""


class ScanFeed(PolledFeed):
    """A segment of a table. position: `key`, behind which it goes on, and `ended`. encode: an item as the value of a message."""

    bounded = True

    def __init__(
        self, table: Table, threads: Executor, common: Mapping[str, Any], segment: tuple[int, int],
        position: Mapping[str, Any], encode: Callable[[items.Item], bytes], keys: Sequence[str],
    ) -> None:  # fmt: skip
        super().__init__(threads, table.config.place, _OPTION, ended=position["ended"])
        self._table, self._common = table, common
        self._segment, self._of = segment
        self._encode, self._keys = encode, keys
        self._next = self._after = items.key_of(position["key"])

    def position(self) -> Position:
        return Position(
            {**self._common, "key": items.key_text(self._after), "ended": self.is_at_end}
        )

    def _get(self) -> Answer:
        found: Sequence[items.Item] = ()
        over = False
        while not found and not over:
            answer = self._table.scan(
                after=self._next, most=_SCAN_ITEMS, segment=self._segment, of=self._of
            )
            found, self._next = answer["Items"], answer.get("LastEvaluatedKey")
            over = self._next is None
        return Answer([self._message(item) for item in found], "for_ever" if over else "no")

    def _message(self, item: items.Item) -> Message:
        value = self._encode(item)
        key = {name: item[name] for name in self._keys}
        return Message(
            value, {"key": key}, f"the item {items.as_json(key).decode()}", len(value) + 256
        )

    def _gave(self, last: Message) -> None:
        self._after = last.told["key"]


class ShardFeed(PolledFeed):
    """A shard of a stream. position: `sequence`, `read_to` and `ended`. since, stop: records from before or after these
    times are not given."""

    def __init__(
        self, table: Table, threads: Executor, common: Mapping[str, Any], shard: str,
        position: Mapping[str, Any], stop: float | None,
    ) -> None:  # fmt: skip
        super().__init__(threads, table.config.place, _OPTION, ended=position["ended"])
        self._table, self._common = table, common
        self._shard, self._stop = shard, stop
        self._since: float = common["since"]
        self._sequence = self._given_to = position["sequence"]
        self._read_to: float = position["read_to"]
        self.bounded = stop is not None
        self._iterator: str | None = None
        self._empty = 0

    def position(self) -> Position:
        told = {"sequence": self._given_to, "read_to": self._read_to, "ended": self.is_at_end}
        return Position({**self._common, **told})

    def _get(self) -> Answer:
        try:
            if self._iterator is None:
                stream, shard = self._common["stream"], self._shard
                self._iterator = self._table.iterator(stream, shard, self._sequence)
            answer = self._table.records(self._iterator, _RECORDS_MAX)
        except ClientError as error:
            if code_of(error) == "ExpiredIteratorException":
                self._iterator = None
                return Answer(())
            if code_of(error) == "TrimmedDataAccessException":
                raise lost(self._table.config.place, self._shard) from error
            raise
        self._iterator = answer.get("NextShardIterator")
        records = answer["Records"]
        self._empty = 0 if records else self._empty + 1
        found: list[Message] = []
        for record in records:
            at = record["dynamodb"]["ApproximateCreationDateTime"].timestamp()
            if self._stop is not None and at > self._stop:
                return Answer(found, "at_stop")
            self._sequence = record["dynamodb"]["SequenceNumber"]
            if at >= self._since:
                found.append(self._message(record))
        at_stop = self._stop is not None and self._empty >= _EMPTY_TO_STOP
        over: Over = "for_ever" if self._iterator is None else "at_stop" if at_stop else "no"
        if not found:
            self._given_to, self._read_to = self._sequence, time.time()
        return Answer(found, over, self._table.config.poll)

    def _message(self, record: Mapping[str, Any]) -> Message:
        told = record["dynamodb"]
        number = told["SequenceNumber"]
        beside = {
            "sequence": number, "shard": self._shard, "timestamp": told["ApproximateCreationDateTime"],
        }  # fmt: skip
        value = items.change_as_json(record)
        return Message(value, beside, f"{self._shard} sequence {number}", len(value) + 256)

    def _gave(self, last: Message) -> None:
        self._given_to = last.told["sequence"]
        self._read_to = max(self._read_to, last.told["timestamp"].timestamp())


def lost(place: str, shard: str) -> SystemError_:
    return SystemError_(
        f"{place}: changes in {shard} were removed from the stream before they were read; it keeps them for 24 hours",
        code="E0605",
        help="run with --fresh to read the table anew; empty the destination before, because deletes are missing",
    )
