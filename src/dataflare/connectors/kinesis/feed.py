"""Read one shard, by its sequence numbers.

Always true: records come in the order of their sequence numbers, and a position is the number of the last one; a shard
that was read to its end has a position that says so, also where no record was read.

A position also has the time up to which the shard was read, so that records that were removed meanwhile are noticed: a
sequence number alone does not tell. A shard in which nothing arrives gives a new position from time to time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Executor
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from dataflare.connectors.kinesis.client import Stream
from dataflare.connectors.kinesis.config import KinesisSourceConfig
from dataflare.model.progress import Position
from dataflare.model.types import STRING, Schema, timestamp
from dataflare.sdk.aws.client import code_of
from dataflare.sdk.aws.feed import Answer, Over, PolledFeed
from dataflare.sdk.brokers.reader import Message

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
_BEHIND_S = 0.2
"""How long it waits after an answer without records where there are more: it was about a part of the shard that has none."""


class ShardFeed(PolledFeed):
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
        super().__init__(threads, stream.config.place, "'stream'", ended=position["ended"])
        self._stream, self._shard = stream, shard
        self._config: KinesisSourceConfig = stream.config  # type: ignore[assignment]
        self._created, self._after = position["created"], position["sequence"]
        self._read_to: float = position["read_to"]
        self._start: float | None = position["start"]
        self._stop = stop
        self.bounded = stop is not None
        self._iterator: str | None = None
        self._warnings = dict(warnings)

    @property
    def warnings(self) -> Mapping[str, int]:
        return self._warnings

    def position(self) -> Position:
        return Position(
            {
                "sequence": self._after,
                "read_to": self._read_to,
                "ended": self.is_at_end,
                "created": self._created,
                "start": self._start,
            }
        )

    def _get(self) -> Answer:
        try:
            if self._iterator is None:
                self._iterator = self._stream.iterator(self._shard, self._begin())
            answer = self._stream.records(self._iterator, _RECORDS_MAX)
        except ClientError as error:
            if code_of(error) == "ExpiredIteratorException":
                self._iterator = None
                return Answer(())
            raise
        self._iterator = answer.get("NextShardIterator")
        is_behind = answer.get("MillisBehindLatest", 0) > 0
        records = answer["Records"]
        if not records and not is_behind:
            self._read_to = max(self._read_to, time.time())
        found: list[Message] = []
        for record in records:
            arrived = record["ApproximateArrivalTimestamp"]
            if self._stop is not None and arrived.timestamp() > self._stop:
                return Answer(found, "at_stop")
            found.append(message_of(record, self._shard))
        at_stop = self._stop is not None and not records and not is_behind
        over: Over = "for_ever" if self._iterator is None else "at_stop" if at_stop else "no"
        again_s = _BEHIND_S if is_behind else self._config.poll
        return Answer(found, over, again_s)

    def _gave(self, last: Message) -> None:
        self._after = last.told["sequence"]
        self._read_to = max(self._read_to, last.told["timestamp"].timestamp())

    def _begin(self) -> Mapping[str, Any]:
        if self._after is not None:
            number = self._after
            return {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": number}
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
