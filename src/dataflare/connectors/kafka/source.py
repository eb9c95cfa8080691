"""The `kafka` source: the partitions of topics, each a split whose position is an offset.

Always true: positions are those of our checkpoints; a group is told them and never asked, except for the first
start with `start: group`; a partition belongs to the topic with the id that it had when it was listed, so a topic that
was deleted and made again is noticed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import polars as pl
from confluent_kafka import KafkaError, TopicPartition

from dataflare.connectors.kafka import topics
from dataflare.connectors.kafka.client import KafkaClient, shown
from dataflare.connectors.kafka.config import From, KafkaSourceConfig, Offsets
from dataflare.connectors.kafka.reader import MESSAGE, PartitionReader
from dataflare.connectors.kafka.topics import Partition
from dataflare.errors import ConfigError, SystemError_
from dataflare.formats.messages.debezium import DebeziumDecoder
from dataflare.formats.messages.envelope import Envelope
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk.catalog import Entry, SupportsCatalog
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.destination import need_columns
from dataflare.sdk.messages.build import decoder, envelope, needs_sample
from dataflare.sdk.messages.letters import SupportsMessages
from dataflare.sdk.source import (
    KnownSplits,
    Replay,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
    SupportsCommits,
    SupportsDiscovery,
)
from dataflare.sdk.threads import in_thread

_SAMPLE_MESSAGES, _SAMPLE_S = 1_000, 5.0
_QUEUE_MIN, _QUEUE_MAX = 256 << 10, 64 << 20


class KafkaSource(
    SourceConnector, SupportsDiscovery, SupportsCommits, SupportsCatalog, SupportsMessages
):
    """Topics."""

    type = "kafka"
    Config = KafkaSourceConfig
    summary = "Reads topics of Apache Kafka, without an end or to the messages that are there."
    example = """\
orders:
  type: kafka
  config:
    bootstrap_servers: localhost:9092
    topic: orders
    metadata: [key, timestamp]
  schema: {id: int64, amount: "decimal(12, 2)"}
  event_time: {column: _timestamp, out_of_orderness: 5s}
"""
    finds_new_fields = True
    tries_again = True
    places_differ = True
    unchosen: ClassVar[Mapping[str, Any]] = {"topic": "-"}

    def __init__(self, config: KafkaSourceConfig, context: ConnectorContext) -> None:
        super().__init__(config, context)
        self._client_: KafkaClient | None = None
        self._envelope: Envelope | None = None
        self._partitions = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client_": None}

    @property
    def _client(self) -> KafkaClient:
        if self._client_ is None:
            self._client_ = KafkaClient(self.config, self.context)
        return self._client_

    @property
    def _committed_only(self) -> bool:
        return bool(self.config.isolation == "read_committed")

    def capabilities(self) -> SourceCapabilities:
        return SourceCapabilities(
            replay=Replay.EXACT,
            replay_reason="a partition has its messages at fixed offsets",
            bounded=self.config.stop is not None,
            changelog=self.config.is_changelog,
            key=tuple(self.config.debezium.key),
            deletes_by_key=self.config.is_changelog,
            changed_at="_ts" if "ts" in self.config.debezium.metadata else None,
            chunks=True,
            at_once=True,
        )

    def effects(self) -> Sequence[str]:
        if self.config.stop is None:
            return ()
        return ["reads the messages that are there when the run starts; the next run goes on there"]

    async def validate(self) -> None:
        await in_thread(topics.partitions_of, self._client, self.config.topics)

    async def inspect(self) -> Mapping[str, str]:
        return await in_thread(self._inspect)

    def _inspect(self) -> Mapping[str, str]:
        client = self._client
        with client.errors("list topics"):
            listed = client.admin.list_topics(timeout=client.config.timeout)
        found = topics.partitions_of(client, self.config.topics)
        starts = topics.earliest(client, found)
        ends = topics.latest(client, found, committed=self._committed_only)
        offsets = sum(ends[each.id] - starts[each.id] for each in found)
        names = {each.topic for each in found}
        return {
            "server": f"Kafka, {len(listed.brokers)} brokers, cluster {listed.cluster_id}",
            "topics": f"{shown(sorted(names))}: {len(found)} partitions, {offsets:,} offsets",
        }

    async def catalog(self) -> Sequence[Entry]:
        return await in_thread(topics.catalog_of, self._client)

    # -- columns -----------------------------------------------------------------------------------

    async def schema(self) -> Schema:
        return (await self.made_envelope()).schema

    async def made_envelope(self) -> Envelope:
        if self._envelope is None:
            self._envelope = await in_thread(self._make_envelope)
        return self._envelope

    def told_of_messages(self) -> Schema:
        return MESSAGE

    def _make_envelope(self) -> Envelope:
        config, topic = self.config, ", ".join(self.config.topics)
        values = keys = None
        if needs_sample(config):
            values, keys = self._sample()
        value = decoder(
            config,
            self.context,
            topic=topic,
            contract=self.contract,
            sample=values,
            learned=self.learned,
        )
        key = None
        if config.key_format is not None:
            key = decoder(config, self.context, topic=topic, sample=keys, is_key=True)
        need_columns(self.context.step, config.debezium.key, value.schema)
        return envelope(config, self.context, value, MESSAGE, key)

    def _sample(self) -> tuple[pl.Series, pl.Series]:
        """The values and keys of some messages, from the places where reading begins."""
        client = self._client
        found = topics.partitions_of(client, self.config.topics)
        starts = topics.earliest(client, found)
        ends = topics.latest(client, found, committed=self._committed_only)
        unread = {(p.topic, p.number) for p in found if starts[p.id] < ends[p.id]}
        values: list[bytes | None] = []
        keys: list[bytes | None] = []
        if unread:
            consumer = client.consumer(isolation_level=self.config.isolation, fetch_wait_max_ms=10)
            end = time.monotonic() + max(_SAMPLE_S, client.config.timeout)
            try:
                with client.errors("read some messages"):
                    consumer.assign(
                        [
                            TopicPartition(p.topic, p.number, starts[p.id])
                            for p in found
                            if (p.topic, p.number) in unread
                        ]
                    )
                    while unread and len(values) < _SAMPLE_MESSAGES and time.monotonic() < end:
                        for message in consumer.consume(_SAMPLE_MESSAGES - len(values), 0.2):
                            error = message.error()
                            if error is None:
                                values.append(message.value())
                                keys.append(message.key())
                                if len(values) > 1:
                                    end = min(end, time.monotonic() + _SAMPLE_S)
                            elif error.code() == KafkaError._PARTITION_EOF:
                                unread.discard((message.topic(), message.partition()))
                            else:
                                raise client.failed(error, "read some messages")
            finally:
                consumer.close()
            if unread and not values:
                raise client.failed(KafkaError(KafkaError._TIMED_OUT), "read some messages")
        return pl.Series(values, dtype=pl.Binary), pl.Series(keys, dtype=pl.Binary)

    # -- splits ------------------------------------------------------------------------------------

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return await in_thread(self._splits, carried or {})

    def _splits(self, carried: Mapping[str, Any]) -> Sequence[Split]:
        found = topics.partitions_of(self._client, self.config.topics)
        self._partitions = len(found)
        for each in found:
            self._check_id(each, carried.get(each.id, {}).get("topic_id"))
        fresh = [each for each in found if each.id not in carried]
        starts = self._starts(fresh) if fresh else {}
        starts |= {each.id: int(carried[each.id]["offset"]) for each in found if each.id in carried}
        stops: dict[str, int] = {}
        if self.config.stop is not None:
            stops = topics.latest(self._client, found, committed=self._committed_only)
        return [_split(each, starts[each.id], stops.get(each.id)) for each in found]

    def _starts(self, found: Sequence[Partition]) -> dict[str, int]:
        """Where the first run begins in each partition."""
        client, start, committed = self._client, self.config.start, self._committed_only
        if start == "latest":
            return topics.latest(client, found, committed=committed)
        if isinstance(start, From):
            return topics.at_time(client, found, start.time, committed=committed)
        offsets = topics.earliest(client, found)
        if isinstance(start, Offsets):
            return offsets | self._given(start, found)
        if start == "group":
            of_group = topics.of_group(client, found, self.config.group_id)
            offsets |= {id_: offset for id_, offset in of_group.items() if offset is not None}
        return offsets

    def _given(self, start: Offsets, found: Sequence[Partition]) -> dict[str, int]:
        given = {
            topics.split_id(topic, number): (topic, number, offset)
            for topic, numbers in start.offsets.items()
            for number, offset in numbers.items()
        }
        known = {each.id for each in found}
        for id_, (topic, number, _) in given.items():
            if id_ not in known:
                raise ConfigError(
                    f"'start' names topic '{topic}' partition {number}, which is not read",
                    code="E0405",
                    step=self.context.step,
                    help="look at 'topic' and 'start'",
                )
        return {id_: offset for id_, (_, _, offset) in given.items()}

    def discovery_interval_s(self) -> float | None:
        return None if self.config.stop is not None else self.config.discovery

    async def discover(self, known: KnownSplits) -> Sequence[Split] | None:
        return await in_thread(self._discover, known)

    def _discover(self, known: KnownSplits) -> Sequence[Split]:
        found = topics.partitions_of(self._client, self.config.topics)
        self._partitions = len(found)
        ids = {split.id: split.data["topic_id"] for split in known.listed}
        for each in found:
            self._check_id(each, ids.get(each.id))
        fresh = [each for each in found if each.id not in known.ids]
        # What came into a new partition before it was found is read too.
        starts = topics.earliest(self._client, fresh)
        return [_split(each, starts[each.id], None) for each in fresh]

    def _check_id(self, found: Partition, topic_id: str | None) -> None:
        if topic_id is not None and topic_id != found.topic_id:
            raise SystemError_(
                f"topic '{found.topic}' of Kafka at {self._client.servers} was deleted and made again: the offsets up "
                "to which it was read belong to the old one",
                code="E0605",
                step=self.context.step,
                help="run with --fresh to read the new topic from its start",
            )

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        made = await self.made_envelope()
        if isinstance(made.value, DebeziumDecoder):
            made.value.not_truncated = await in_thread(self._why_not_truncated)
        return await in_thread(self._open, made, split, position)

    def _why_not_truncated(self) -> str | None:
        """Why messages of a TRUNCATE are bad; None where they are taken."""
        if (step := self.not_truncated.get(None)) is not None:
            return f"and step '{step}' cannot take them back"
        there = len(topics.partitions_of(self._client, self.config.topics))
        if there > 1:
            return f"and it is not known which rows in {there} partitions came before it"
        return None

    def _open(self, made: Envelope, split: Split, position: Position | None) -> SplitReader:
        data = split.data
        partition = Partition(data["topic"], data["partition"], data["topic_id"])
        there = topics.partitions_of(self._client, [partition.topic])
        for each in itertools.islice(there, 1):
            self._check_id(each, partition.topic_id)
        number = max(1, self._partitions, len(there))
        queue_bytes = max(_QUEUE_MIN, min(_QUEUE_MAX, self.context.memory // 8 // number))
        return PartitionReader(
            KafkaClient(self.config, self.context),
            made,
            partition,
            data["start"] if position is None else position.value["offset"],
            data["stop"],
            isolation=self.config.isolation,
            skips_lost=self.config.lost_offsets == "skip",
            queue_bytes=queue_bytes,
        )

    # -- positions ---------------------------------------------------------------------------------

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        names = ("offset", "topic_id")
        return {
            id_: {name: position.value[name] for name in names}
            for id_, position in positions.items()
        }

    def end_of(self, split: Split) -> Position | None:
        data = split.data
        if data["stop"] is None:
            return None
        names = ("topic", "partition", "topic_id")
        return Position({**{n: data[n] for n in names}, "offset": max(data["start"], data["stop"])})

    async def committed(self, positions: Mapping[str, Position]) -> None:
        if self.config.group_id is not None and positions:
            await in_thread(self._tell_group, positions)

    def _tell_group(self, positions: Mapping[str, Position]) -> None:
        group, client = self.config.group_id, self._client
        doing = f"tell group '{group}' its positions"
        places = [
            TopicPartition(p.value["topic"], p.value["partition"], p.value["offset"])
            for p in positions.values()
        ]
        consumer = client.consumer(group_id=group)
        try:
            with client.errors(doing):
                told = consumer.commit(offsets=places, asynchronous=False)
            for place in told or ():
                if place.error is not None:
                    raise client.failed(place.error, doing)
        finally:
            consumer.close()


def _split(partition: Partition, start: int, stop: int | None) -> Split:
    return Split(
        partition.id,
        {
            "topic": partition.topic,
            "partition": partition.number,
            "topic_id": partition.topic_id,
            "start": start,
            "stop": stop,
        },
    )
