"""A table, its stream, and what DynamoDB tells of them. Called on threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from dataflare.connectors.dynamodb.config import DynamodbSourceConfig
from dataflare.errors import Retry, SystemError_
from dataflare.sdk.aws.client import aws_errors, client, service_time

CALLS = 8
"""How many requests are made at a time."""
_WITH_IMAGES = ("NEW_IMAGE", "NEW_AND_OLD_IMAGES")


class TableState(Struct, frozen=True):
    """keys: the attributes of the key and their types. id: of the table; one that was made again has another. stream: its
    ARN, or None. now: the time of the service, in seconds."""

    keys: Mapping[str, str]
    id: str
    stream: str | None
    items: int
    now: float


class Shard(Struct, frozen=True):
    """parent: the shard that it came from, if that is there."""

    id: str
    parent: str | None
    is_open: bool


class Table:
    """A table, and clients for it."""

    def __init__(self, config: DynamodbSourceConfig, step: str) -> None:
        self.config, self._step = config, step
        self._dynamodb: Any = client("dynamodb", config, step, calls=CALLS)
        self._streams: Any = client("dynamodbstreams", config, step, calls=CALLS)

    def state(self, *, follows: bool) -> TableState:
        """follows: the stream is needed. Raises SystemError_ for a table that is not there or has none."""
        with aws_errors(self.config.place, "'table'"):
            answer = self._dynamodb.describe_table(TableName=self.config.table)
        found = answer["Table"]
        if found["TableStatus"] in ("CREATING", "DELETING"):
            raise SystemError_(
                f"{self.config.place} is not there yet, or is being deleted: {found['TableStatus']}",
                code="E0604",
                step=self._step,
                retry=Retry.LATER if found["TableStatus"] == "CREATING" else Retry.NEVER,
                help="wait until it is active",
            )
        types = {d["AttributeName"]: d["AttributeType"] for d in found["AttributeDefinitions"]}
        ordered = sorted(found["KeySchema"], key=lambda each: each["KeyType"] != "HASH")
        keys = {each["AttributeName"]: types[each["AttributeName"]] for each in ordered}
        told = found.get("StreamSpecification") or {}
        if follows:
            self._check_stream(told)
        stream = found.get("LatestStreamArn") if told.get("StreamEnabled") else None
        created: datetime = found["CreationDateTime"]
        id_ = str(found.get("TableId") or created.timestamp())
        return TableState(keys, id_, stream, int(found.get("ItemCount", 0)), service_time(answer))

    def _check_stream(self, told: Mapping[str, Any]) -> None:
        kind = told.get("StreamViewType") if told.get("StreamEnabled") else None
        if kind in _WITH_IMAGES:
            return
        has = "has no stream" if kind is None else f"has a stream of {kind}, without new items"
        raise SystemError_(
            f"{self.config.place} {has}, so its changes cannot be followed",
            code="E0605",
            step=self._step,
            help=f"run: aws dynamodb update-table --table-name {self.config.table} --stream-specification "
            "StreamEnabled=true,StreamViewType=NEW_AND_OLD_IMAGES (one of another kind must be switched off before)",
        )

    def scan(self, *, after: Any, most: int, segment: int = 0, of: int = 1) -> Mapping[str, Any]:
        """The items of a segment behind a key. Raises the client's own exceptions."""
        more = {} if after is None else {"ExclusiveStartKey": after}
        answer: Mapping[str, Any] = self._dynamodb.scan(
            TableName=self.config.table, Segment=segment, TotalSegments=of, Limit=most,
            ConsistentRead=self.config.consistent, **more,
        )  # fmt: skip
        return answer

    def names(self) -> Sequence[str]:
        """Of all tables."""
        with aws_errors(f"DynamoDB at {self.config.server}", "'region'"):
            pages = self._dynamodb.get_paginator("list_tables").paginate()
            return [name for page in pages for name in page["TableNames"]]

    def shards(self, stream: str) -> list[Shard]:
        """All that are there."""
        found: list[Mapping[str, Any]] = []
        last: Mapping[str, str] = {}
        with aws_errors(self.config.place, "'table'"):
            while True:
                answer = self._streams.describe_stream(StreamArn=stream, **last)[
                    "StreamDescription"
                ]
                found += answer["Shards"]
                if not answer.get("LastEvaluatedShardId"):
                    break
                last = {"ExclusiveStartShardId": answer["LastEvaluatedShardId"]}
        ids = {each["ShardId"] for each in found}
        shards = []
        for each in found:
            parent = each.get("ParentShardId")
            is_open = each["SequenceNumberRange"].get("EndingSequenceNumber") is None
            shards.append(Shard(each["ShardId"], parent if parent in ids else None, is_open))
        return shards

    def iterator(self, stream: str, shard: str, after: str | None) -> str:
        """Where reading begins. after: a sequence number, or None for the oldest record. Raises the client's own exceptions."""
        begin = {"ShardIteratorType": "TRIM_HORIZON"}
        if after is not None:
            begin = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": after}
        answer = self._streams.get_shard_iterator(StreamArn=stream, ShardId=shard, **begin)
        return str(answer["ShardIterator"])

    def records(self, iterator: str, most: int) -> Mapping[str, Any]:
        """What is behind an iterator. Raises the client's own exceptions."""
        answer: Mapping[str, Any] = self._streams.get_records(ShardIterator=iterator, Limit=most)
        return answer

    def close(self) -> None:
        self._dynamodb.close()
        self._streams.close()
