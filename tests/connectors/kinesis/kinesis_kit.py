"""A stream of its own for a test, with what goes into it and what is in it, by the client library alone."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from broker_moving import BrokerPlace
from servers.aws import AwsServer

_numbers = itertools.count()


class Place(BrokerPlace):
    """A stream, and a folder for runs."""

    def __init__(
        self, server: AwsServer, folder: Path, shards: int = 2, name: str | None = None
    ) -> None:
        self.server, self.folder = server, folder
        self.kinesis = server.client("kinesis")
        self.stream = name or f"s{next(_numbers)}"
        self.make(shards)

    def make(self, shards: int = 2) -> None:
        self.kinesis.create_stream(StreamName=self.stream, ShardCount=shards)

    def put(self, *records: tuple[str, bytes]) -> list[str]:
        """records: their keys and data. Gives their sequence numbers."""
        answer = self.kinesis.put_records(
            StreamName=self.stream,
            Records=[{"PartitionKey": key, "Data": data} for key, data in records],
        )
        return [each["SequenceNumber"] for each in answer["Records"]]

    def numbers(self, first: int, after: int, keys: int = 5) -> None:
        if first < after:
            self.put(
                *((f"k{n % keys}", json.dumps({"n": n}).encode()) for n in range(first, after))
            )

    def shards(self) -> list[str]:
        """Those that are open."""
        listed = self.kinesis.list_shards(StreamName=self.stream)["Shards"]
        return [
            each["ShardId"]
            for each in listed
            if "EndingSequenceNumber" not in each["SequenceNumberRange"]
        ]

    def split(self, shard: str) -> None:
        listed = self.kinesis.list_shards(StreamName=self.stream)["Shards"]
        (keys,) = (each["HashKeyRange"] for each in listed if each["ShardId"] == shard)
        middle = (int(keys["StartingHashKey"]) + int(keys["EndingHashKey"])) // 2
        self.kinesis.split_shard(
            StreamName=self.stream, ShardToSplit=shard, NewStartingHashKey=str(middle)
        )

    def merge(self, shard: str, other: str) -> None:
        self.kinesis.merge_shards(
            StreamName=self.stream, ShardToMerge=shard, AdjacentShardToMerge=other
        )

    def records(self) -> list[Any]:
        """All that are in the stream, shard by shard."""
        found = []
        for each in self.kinesis.list_shards(StreamName=self.stream)["Shards"]:
            iterator = self.kinesis.get_shard_iterator(
                StreamName=self.stream, ShardId=each["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            found += self.kinesis.get_records(ShardIterator=iterator)["Records"]
        return found

    def config(self, **more: Any) -> dict[str, Any]:
        return {**self.server.options, "stream": self.stream, **more}

    def filled(self, workflow: str) -> str:
        options = ", ".join(f'{name}: "{value}"' for name, value in self.server.options.items())
        return workflow.replace("STREAM", self.stream).replace("SERVER", options)
