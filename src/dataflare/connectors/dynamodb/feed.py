"""Read one segment of a table by scans, or one shard of its stream.

Always true: a segment goes on behind the last key that was given; records of a shard come in their order, and a position
is the number of the last one. A part that was read to its end has a position that says so.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from botocore.exceptions import ClientError

from dataflare.connectors.dynamodb import items
from dataflare.connectors.dynamodb.client import Table
from dataflare.errors import SystemError_
from dataflare.model.progress import Position
from dataflare.model.types import STRING, Schema, timestamp
from dataflare.sdk.aws.client import BUSY, aws_errors, code_of
from dataflare.sdk.brokers.reader import Feed, Message
from dataflare.sdk.source import EndOfSplit

TOLD = Schema.of([("sequence", STRING), ("shard", STRING), ("timestamp", timestamp("ms", "UTC"))])
"""What a stream says of a change beside its item."""
_SCAN_ITEMS, _RECORDS_MAX = 1_000, 1_000
_BUSY_S, _BUSY_MAX_S = 0.25, 10.0
_REFRESH_S = 1_800.0
"""How old the position becomes of a shard in which nothing happens: by its time it is known whether changes were removed."""
_EMPTY_TO_STOP = 3
"""An open shard does not say that nothing is left: it is asked so often without a record."""


class _PartFeed(Feed):
    """Takes what requests give, made on threads. common: what each position has."""

    def __init__(self, table: Table, threads: Executor, common: Mapping[str, Any]) -> None:
        self._table, self._threads, self._common = table, threads, common
        self._waiting: list[Message] = []
        self._not_before = 0.0
        self._gave_at = time.monotonic()
        self._over = self._told_end = False

    @abstractmethod
    def _get(self) -> list[Message]:
        """The messages of the next request; sets `_over` behind the last. On a thread. Raises the client's exceptions."""

    @abstractmethod
    def _given(self, last: Message) -> None:
        """This message was the last that was taken."""

    async def take(self, most: int, wait_s: float | None) -> Sequence[Message]:
        loop = asyncio.get_running_loop()
        end = None if wait_s is None else loop.time() + wait_s
        while not self._waiting:
            if self._told_end:
                raise EndOfSplit
            if self._over:
                # The position says that there is no more, also where nothing was read.
                self._told_end = True
                return []
            if end is None and time.monotonic() - self._gave_at > _REFRESH_S:
                self._gave_at = time.monotonic()
                return []
            pause = self._not_before - loop.time()
            if end is not None and loop.time() + max(pause, 0) >= end:
                await asyncio.sleep(max(0.0, end - loop.time()))
                return []
            if pause > 0:
                await asyncio.sleep(pause)
            self._waiting = await loop.run_in_executor(self._threads, self._asked)
            if not self._waiting and not self._over:
                self._not_before = loop.time() + self._table.config.poll
        found, self._waiting = self._waiting[:most], self._waiting[most:]
        self._given(found[-1])
        self._gave_at = time.monotonic()
        return found

    def _asked(self) -> list[Message]:
        busy_s = _BUSY_S
        while True:
            with aws_errors(self._table.config.place, "'table'"):
                try:
                    return self._get()
                except ClientError as error:
                    if code_of(error) not in BUSY or busy_s > _BUSY_MAX_S:
                        raise
            time.sleep(busy_s)
            busy_s *= 2


class ScanFeed(_PartFeed):
    """A segment of a table. position: `key`, behind which it goes on, and `ended`. encode: an item as the value of a message."""

    bounded = True

    def __init__(
        self, table: Table, threads: Executor, common: Mapping[str, Any], segment: tuple[int, int],
        position: Mapping[str, Any], encode: Callable[[items.Item], bytes], keys: Sequence[str],
    ) -> None:  # fmt: skip
        super().__init__(table, threads, common)
        self._segment, self._of = segment
        self._encode, self._keys = encode, keys
        self._next = self._after = items.key_of(position["key"])
        self._over = position["ended"]

    def position(self) -> Position:
        ended = self._over and not self._waiting
        return Position({**self._common, "key": items.key_text(self._after), "ended": ended})

    def _get(self) -> list[Message]:
        found: Sequence[items.Item] = ()
        while not found and not self._over:
            answer = self._table.scan(
                after=self._next, most=_SCAN_ITEMS, segment=self._segment, of=self._of
            )
            found, self._next = answer["Items"], answer.get("LastEvaluatedKey")
            self._over = self._next is None
        return [self._message(item) for item in found]

    def _message(self, item: items.Item) -> Message:
        value = self._encode(item)
        key = {name: item[name] for name in self._keys}
        return Message(
            value, {"key": key}, f"the item {items.as_json(key).decode()}", len(value) + 256
        )

    def _given(self, last: Message) -> None:
        self._after = last.told["key"]


class ShardFeed(_PartFeed):
    """A shard of a stream. position: `sequence`, `read_to` and `ended`. since, stop: records from before or after these
    times are not given."""

    def __init__(
        self, table: Table, threads: Executor, common: Mapping[str, Any], shard: str,
        position: Mapping[str, Any], stop: float | None,
    ) -> None:  # fmt: skip
        super().__init__(table, threads, common)
        self._shard, self._stop = shard, stop
        self._since: float = common["since"]
        self._sequence = self._given_to = position["sequence"]
        self._read_to: float = position["read_to"]
        self._ended: bool = position["ended"]
        self._over = self._ended
        self.bounded = stop is not None
        self._iterator: str | None = None
        self._empty = 0

    def position(self) -> Position:
        ended = self._ended and not self._waiting
        told = {"sequence": self._given_to, "read_to": self._read_to, "ended": ended}
        return Position({**self._common, **told})

    def _get(self) -> list[Message]:
        try:
            if self._iterator is None:
                stream, shard = self._common["stream"], self._shard
                self._iterator = self._table.iterator(stream, shard, self._sequence)
            answer = self._table.records(self._iterator, _RECORDS_MAX)
        except ClientError as error:
            if code_of(error) == "ExpiredIteratorException":
                self._iterator = None
                return []
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
                self._over = True
                return found
            self._sequence = record["dynamodb"]["SequenceNumber"]
            if at >= self._since:
                found.append(self._message(record))
        if self._iterator is None:
            self._ended = self._over = True
        elif self._stop is not None and self._empty >= _EMPTY_TO_STOP:
            self._over = True
        if not found and not self._waiting:
            self._given_to, self._read_to = self._sequence, time.time()
        return found

    def _message(self, record: Mapping[str, Any]) -> Message:
        told = record["dynamodb"]
        number = told["SequenceNumber"]
        beside = {
            "sequence": number, "shard": self._shard, "timestamp": told["ApproximateCreationDateTime"],
        }  # fmt: skip
        value = items.change_as_json(record)
        return Message(value, beside, f"{self._shard} sequence {number}", len(value) + 256)

    def _given(self, last: Message) -> None:
        self._given_to = last.told["sequence"]
        self._read_to = max(self._read_to, last.told["timestamp"].timestamp())


def lost(place: str, shard: str) -> SystemError_:
    return SystemError_(
        f"{place}: changes in {shard} were removed from the stream before they were read; it keeps them for 24 hours",
        code="E0605",
        help="run with --fresh to read the table anew; empty the destination before, because deletes are missing",
    )
