"""Read one shard, by its sequence numbers.

Always true: records come in the order of their sequence numbers, and a position is the number of the last one; a shard
that was read to its end has a position that says so, also where no record was read.

A position also has the time up to which the shard was read, so that records that were removed meanwhile are noticed: a
sequence number alone does not tell. A shard in which nothing arrives gives a new position from time to time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError
from msgspec import Struct

from dataflare.connectors.kinesis.client import Stream
from dataflare.connectors.kinesis.config import KinesisSourceConfig
from dataflare.model.progress import Position
from dataflare.model.types import STRING, Schema, timestamp
from dataflare.sdk.aws.client import BUSY, aws_errors, code_of
from dataflare.sdk.brokers.reader import Feed, Message
from dataflare.sdk.source import EndOfSplit

TOLD = Schema.of(
    [
        ("partition_key", STRING),
        ("sequence", STRING),
        ("shard", STRING),
        ("timestamp", timestamp("ms", "UTC")),
    ]
)
"""What Kinesis says of a record beside its data."""
FIELDS = ("sequence", "read_to", "ended", "created", "start")
"""Of a position: the number of the last record that was read, or None; the time up to which it was read; whether the
shard has no more for ever; when the stream was made; from which time on it is read, or None."""
_RECORDS_MAX = 10_000
_BUSY_S, _BUSY_MAX_S = 0.25, 5.0
_BEHIND_S = 0.2
"""How long it waits after an answer without records where there are more: it was about a part of the shard that has none."""
_REFRESH_S = 1_800.0
"""How old the time of a position becomes in a shard in which nothing arrives."""


class Answer(Struct, frozen=True):
    """What a request gave. iterator: of the next one; None where the shard has nothing more for ever. behind_s: how far
    the newest record of the shard is away."""

    records: Sequence[Mapping[str, Any]]
    iterator: str | None
    behind_s: float


class ShardFeed(Feed):
    """position: with FIELDS. stop: the time after which records that arrive are not read, or None. warnings: what to tell
    of what was lost before."""

    def __init__(
        self,
        stream: Stream,
        threads: Executor,
        shard: str,
        position: Mapping[str, Any],
        *,
        stop: float | None,
        warnings: Mapping[str, int],
    ) -> None:
        self._stream, self._threads, self._shard = stream, threads, shard
        self._config: KinesisSourceConfig = stream.config  # type: ignore[assignment]
        self._created, self._after = position["created"], position["sequence"]
        self._read_to: float = position["read_to"]
        self._ended: bool = position["ended"]
        self._start: float | None = position["start"]
        self._stop = stop
        self.bounded = stop is not None
        self._told_end = self._done = False
        self._iterator: str | None = None
        self._waiting: list[Message] = []
        self._not_before = 0.0
        self._told_at = self._read_to
        self._warnings = dict(warnings)

    @property
    def warnings(self) -> Mapping[str, int]:
        return self._warnings

    def position(self) -> Position:
        return Position(
            {
                "sequence": self._after,
                "read_to": self._read_to,
                "ended": self._ended and not self._waiting,
                "created": self._created,
                "start": self._start,
            }
        )

    async def take(self, most: int, wait_s: float | None) -> Sequence[Message]:
        loop = asyncio.get_running_loop()
        end = None if wait_s is None else loop.time() + wait_s
        while not self._waiting:
            if self._told_end:
                raise EndOfSplit
            if self._ended or self._done:
                # The position says that there is no more, also where no record was read.
                self._told_end = True
                return []
            if end is None and self._read_to - self._told_at > _REFRESH_S:
                self._told_at = self._read_to
                return []
            pause = self._not_before - loop.time()
            if end is not None and loop.time() + max(pause, 0) >= end:
                await asyncio.sleep(max(0.0, end - loop.time()))
                return []
            if pause > 0:
                await asyncio.sleep(pause)
            await self._ask()
        found, self._waiting = self._waiting[:most], self._waiting[most:]
        self._after = found[-1].told["sequence"]
        self._read_to = self._told_at = max(self._read_to, found[-1].told["timestamp"].timestamp())
        return found

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._threads, self._get)
        if not answer.records:
            self._not_before = loop.time() + (_BEHIND_S if answer.behind_s else self._config.poll)
        if not answer.records and answer.behind_s == 0:
            self._read_to = max(self._read_to, time.time())
        for record in answer.records:
            arrived = record["ApproximateArrivalTimestamp"]
            if self._stop is not None and arrived.timestamp() > self._stop:
                self._done = True
                return
            self._waiting.append(message_of(record, self._shard))
        self._ended = answer.iterator is None
        self._done = self._stop is not None and not answer.records and answer.behind_s == 0

    def _get(self) -> Answer:
        """The next records. On a thread."""
        busy_s = _BUSY_S
        while True:
            with aws_errors(self._config.place, "'stream'"):
                try:
                    if self._iterator is None:
                        self._iterator = self._stream.iterator(self._shard, self._begin())
                    answer = self._stream.records(self._iterator, _RECORDS_MAX)
                    break
                except ClientError as error:
                    code = code_of(error)
                    if code == "ExpiredIteratorException":
                        self._iterator = None
                        continue
                    if code not in BUSY or busy_s > _BUSY_MAX_S:
                        raise
            time.sleep(busy_s)
            busy_s *= 2
        self._iterator = answer.get("NextShardIterator")
        behind_s = float(answer.get("MillisBehindLatest", 0)) / 1000
        return Answer(answer["Records"], self._iterator, behind_s)

    def _begin(self) -> Mapping[str, Any]:
        after = self._waiting[-1].told["sequence"] if self._waiting else self._after
        if after is not None:
            return {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": after}
        if self._start is None:
            return {"ShardIteratorType": "TRIM_HORIZON"}
        time_ = datetime.fromtimestamp(self._start, UTC)
        return {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": time_}


def message_of(record: Mapping[str, Any], shard: str) -> Message:
    """record: as the client has it."""
    data: bytes = record["Data"]
    told = {
        "partition_key": record["PartitionKey"],
        "sequence": record["SequenceNumber"],
        "shard": shard,
        "timestamp": record["ApproximateArrivalTimestamp"],
    }
    return Message(data, told, f"{shard} sequence {record['SequenceNumber']}", len(data) + 256)
