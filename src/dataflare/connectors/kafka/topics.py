"""Which partitions there are, and which offsets they have. Blocking."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from confluent_kafka import IsolationLevel, TopicCollection, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]
from msgspec import Struct

from dataflare.connectors.kafka.client import KafkaClient, shown
from dataflare.errors import InternalError, SystemError_
from dataflare.sdk.catalog import Entry

_INTERNAL = ("__consumer_offsets", "__transaction_state", "__share_group_state")


class Partition(Struct, frozen=True, order=True):
    """topic_id: of the topic; one that is deleted and made again has another."""

    topic: str
    number: int
    topic_id: str

    @property
    def id(self) -> str:
        return split_id(self.topic, self.number)

    def __str__(self) -> str:
        return f"topic '{self.topic}' partition {self.number}"


def split_id(topic: str, number: int) -> str:
    return f"{topic}-{number:06d}"


def partitions_of(client: KafkaClient, topics: Sequence[str]) -> list[Partition]:
    """The partitions of these topics, in order. topics: names, and regular expressions that begin with ^. Raises
    SystemError_ (E0604) for a name that is not there, and if no topic matches."""
    names = [name for name in topics if not name.startswith("^")]
    patterns = [re.compile(name) for name in topics if name.startswith("^")]
    if patterns:
        doing = "list topics"
        with client.errors(doing):
            listed = client.admin.list_topics(timeout=client.config.timeout).topics
        found = [
            name
            for name in listed
            if name not in _INTERNAL and any(pattern.match(name) for pattern in patterns)
        ]
        names = sorted({*names, *found})
        if not names:
            raise SystemError_(
                f"no topic of Kafka at {client.servers} matches {shown(topics)}",
                code="E0604",
                step=client.step,
                help="look at 'topic'",
            )
    described = _described(client, names)
    return sorted(
        Partition(topic.name, partition.id, str(topic.topic_id))
        for topic in described
        for partition in topic.partitions
    )


def catalog_of(client: KafkaClient) -> list[Entry]:
    """The topics, without those whose names begin with _: of brokers, tools and DataFlare. rows: how many offsets
    they have."""
    doing = "list topics"
    with client.errors(doing):
        listed = client.admin.list_topics(timeout=client.config.timeout).topics
    names = [n for n in sorted(listed) if not n.startswith("_")]
    if not names:
        return []
    found = partitions_of(client, names)
    starts, ends = earliest(client, found), latest(client, found, committed=True)
    rows = dict.fromkeys(names, 0)
    for each in found:
        rows[each.topic] += ends[each.id] - starts[each.id]
    return [Entry(n, "topic", {"topic": n, "stop": "latest"}, rows[n]) for n in names]


def _described(client: KafkaClient, names: Sequence[str]) -> list[Any]:
    doing = f"read topic {shown(names)}"
    with client.errors(doing):
        futures = client.admin.describe_topics(
            TopicCollection(list(names)), request_timeout=client.config.timeout
        )
    return list(client.results(futures, doing).values())


def earliest(client: KafkaClient, partitions: Sequence[Partition]) -> dict[str, int]:
    """By id, the first offset that is still there."""
    return _offsets(client, partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]


def latest(
    client: KafkaClient, partitions: Sequence[Partition], *, committed: bool
) -> dict[str, int]:
    """By id, the offset after the last message; committed: only of messages whose transactions have ended."""
    return _offsets(client, partitions, OffsetSpec.latest(), committed=committed)  # type: ignore[no-untyped-call]


def at_time(
    client: KafkaClient, partitions: Sequence[Partition], time: datetime, *, committed: bool
) -> dict[str, int]:
    """By id, the offset of the first message at or after a time; where there is none, the end."""
    spec = OffsetSpec.for_timestamp(int(time.timestamp() * 1000))
    found = _offsets(client, partitions, spec, committed=committed)
    ends = latest(client, partitions, committed=committed)
    return {id_: offset if offset >= 0 else ends[id_] for id_, offset in found.items()}


def _offsets(
    client: KafkaClient,
    partitions: Sequence[Partition],
    spec: OffsetSpec,
    *,
    committed: bool = False,
) -> dict[str, int]:
    if not partitions:
        return {}
    level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
    asked = {TopicPartition(each.topic, each.number): spec for each in partitions}
    doing = f"list the offsets of topic {shown(sorted({each.topic for each in partitions}))}"
    with client.errors(doing):
        futures = client.admin.list_offsets(
            asked, isolation_level=level, request_timeout=client.config.timeout
        )
    found = client.results(futures, doing)
    if missing := [place for place in asked if place not in found]:
        raise InternalError(f"{doing}: the answer has nothing for {missing}", step=client.step)
    return {split_id(place.topic, place.partition): info.offset for place, info in found.items()}


def of_group(
    client: KafkaClient, partitions: Sequence[Partition], group_id: str
) -> dict[str, int | None]:
    """By id, the offset that a consumer group has committed, or None."""
    consumer = client.consumer(group_id=group_id, isolation_level="read_committed")
    try:
        with client.errors(f"read the offsets of group '{group_id}'"):
            places = [TopicPartition(each.topic, each.number) for each in partitions]
            found = consumer.committed(places, timeout=client.config.timeout)
    finally:
        consumer.close()
    offsets: dict[str, int | None] = {}
    for place in found:
        if place.error is not None:
            raise client.failed(place.error, f"read the offsets of group '{group_id}'")
        offset = place.offset if place.offset >= 0 else None
        offsets[split_id(place.topic, place.partition)] = offset
    return offsets
