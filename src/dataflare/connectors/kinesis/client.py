"""A stream, its shards and what Kinesis tells of them. Called on threads."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct

from dataflare.connectors.kinesis.config import KinesisConfig
from dataflare.errors import Retry, SystemError_
from dataflare.sdk.aws.client import aws_errors, client, service_time

CALLS = 8
"""How many requests are made at a time."""


class Shard(Struct, frozen=True):
    """parents: the shards that it came from by resharding, as far as they are there."""

    id: str
    parents: tuple[str, ...]
    is_open: bool


class StreamState(Struct, frozen=True):
    """created: when the stream was made; another one with its name has another time. kept_s: how long records are
    kept. now: the time of the service, in seconds."""

    created: str
    kept_s: float
    now: float
    status: str


class Stream:
    """A stream, and a client for it. calls: how many are made at a time."""

    def __init__(self, config: KinesisConfig, step: str, *, calls: int = CALLS) -> None:
        self.config, self._step = config, step
        self.kinesis: Any = client("kinesis", config, step, calls=calls)

    def ask(self, call: str, **arguments: Any) -> Any:
        """What Kinesis answers to a call about this stream."""
        return self.call(call, **self.config.named, **arguments)

    def call(self, call: str, **arguments: Any) -> Any:
        with aws_errors(self.config.place, "'stream'"):
            return getattr(self.kinesis, call)(**arguments)

    def state(self) -> StreamState:
        answer = self.ask("describe_stream_summary")
        found = answer["StreamDescriptionSummary"]
        if found["StreamStatus"] in ("CREATING", "DELETING"):
            raise SystemError_(
                f"{self.config.place} is not there yet, or is being deleted: {found['StreamStatus']}",
                code="E0604",
                step=self._step,
                retry=Retry.LATER if found["StreamStatus"] == "CREATING" else Retry.NEVER,
                help="wait until it is active",
            )
        created: datetime = found["StreamCreationTimestamp"]
        return StreamState(
            f"{created.timestamp():.3f}",
            float(found["RetentionPeriodHours"]) * 3600,
            service_time(answer),
            found["StreamStatus"],
        )

    def shards(self) -> list[Shard]:
        """All that are there, the oldest first."""
        found: list[Mapping[str, Any]] = []
        answer = self.ask("list_shards")
        found += answer["Shards"]
        while token := answer.get("NextToken"):
            answer = self.call("list_shards", NextToken=token)
            found += answer["Shards"]
        ids = {each["ShardId"] for each in found}
        shards = []
        for each in found:
            named = (each.get("ParentShardId"), each.get("AdjacentParentShardId"))
            parents = tuple(name for name in named if name in ids and name is not None)
            is_open = each["SequenceNumberRange"].get("EndingSequenceNumber") is None
            shards.append(Shard(each["ShardId"], parents, is_open))
        return sorted(shards, key=lambda shard: shard.id)

    def iterator(self, shard: str, start: Mapping[str, Any]) -> str:
        """Where reading begins. start: as `get_shard_iterator` takes it."""
        answer = self.ask("get_shard_iterator", ShardId=shard, **start)
        return str(answer["ShardIterator"])

    def records(self, iterator: str, most: int) -> Any:
        """What is behind an iterator. Raises the client's own exceptions."""
        return self.kinesis.get_records(ShardIterator=iterator, Limit=most)

    def close(self) -> None:
        self.kinesis.close()
