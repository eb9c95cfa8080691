"""The topic that records which epoch of which lineage is in which topics.

Always true: a marker is in the same transaction as the messages of its epoch; the last marker of a lineage and step
is the valid one. The topic is compacted, so it stays small.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]
from msgspec import Struct

from dataflare.connectors.kafka.client import KafkaClient
from dataflare.connectors.kafka.errors import error_of
from dataflare.connectors.kafka.topics import Partition, latest, split_id
from dataflare.sdk.destination import Marker, Owner

_MANIFEST_MAX = 256 << 10
"""A longer manifest is left out: the checkpoints have it."""
_MISSING = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
_SETTINGS = {
    "cleanup.policy": "compact",
    "segment.ms": "3600000",
    "min.cleanable.dirty.ratio": "0.1",
}


class MarkerRecord(Struct, frozen=True):
    """What a step has in the cluster. rows_total: the messages that the lineage and step have written so far.
    place: the topics that it writes."""

    lineage: str
    step: str
    attempt: int
    token: str
    epoch: int
    rows_total: int
    workflow: str
    place: str
    manifest: str | None = None
    at: str = ""

    @property
    def key(self) -> bytes:
        return marker_key(self.lineage, self.step)

    def value(self) -> bytes:
        manifest = self.manifest
        if manifest is not None and len(manifest) > _MANIFEST_MAX:
            manifest = None
        stamped = msgspec.structs.replace(
            self, manifest=manifest, at=datetime.now(UTC).isoformat(timespec="milliseconds")
        )
        return msgspec.json.encode(stamped)

    def marker(self) -> Marker:
        return Marker(self.epoch, self.attempt, self.manifest, self.rows_total == 0)

    def owner(self) -> Owner:
        return Owner(self.lineage, self.attempt, self.epoch, self.rows_total, self.manifest)


def marker_key(lineage: str, step: str) -> bytes:
    return f"{lineage}/{step}".encode()


def ensure_marker_topic(client: KafkaClient, topic: str) -> None:
    """Make it if it is not there."""
    make_topic(client, NewTopic(topic, 1, config=_SETTINGS))


def make_topic(client: KafkaClient, topic: NewTopic) -> None:
    """Make a topic, unless it is there, and wait until it is known."""
    doing = f"make topic '{topic.topic}'"
    with client.errors(doing):
        futures = client.admin.create_topics([topic], request_timeout=client.config.timeout)
    for future in futures.values():
        try:
            future.result(client.config.timeout + 5)
        except Exception as error:
            found = error_of(error)
            if found is None or found.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise client.failed(error, doing) from error
    end = time.monotonic() + client.config.timeout
    while time.monotonic() < end:
        with client.errors(doing):
            found_topics = client.admin.list_topics(
                topic.topic, timeout=client.config.timeout
            ).topics
        there = found_topics.get(topic.topic)
        if there is not None and there.error is None and there.partitions:
            return
        time.sleep(0.05)
    raise client.failed(KafkaError(KafkaError._TIMED_OUT), doing)


class Markers(Struct, frozen=True):
    """What the topic has. records: by key, what was committed before any transaction that is still open, the last one
    written last. hidden: by key, what lies behind the beginning of an open transaction; None for a removal. Whether it
    is committed cannot be seen yet."""

    records: dict[bytes, MarkerRecord]
    hidden: list[tuple[bytes, MarkerRecord | None]]


def read_markers(client: KafkaClient, topic: str) -> Markers:
    """All that the topic has when this begins; nothing where it is missing.

    A reader with read_committed gets nothing behind the beginning of an open transaction, whatever producer opened it,
    and the topic is shared by all workflows of a cluster. So where such a reader ends is compared with the end of the
    topic, and the rest is read as it is. Raises errors that are worth retrying while brokers do not answer.
    """
    doing = f"read topic '{topic}'"
    consumer = client.consumer(isolation_level="read_committed", fetch_wait_max_ms=10)
    try:
        with client.errors(doing):
            listed = consumer.list_topics(topic, timeout=client.config.timeout).topics[topic]
            if listed.error is not None and listed.error.code() in _MISSING:
                return Markers({}, [])
            if listed.error is not None or not listed.partitions:
                error = listed.error or KafkaError(KafkaError._UNKNOWN_PARTITION)
                raise client.failed(error, doing)
            ends = _ends(client, topic, sorted(listed.partitions))
            starts = dict.fromkeys(ends, OFFSET_BEGINNING)
            written, reached = _read(client, consumer, topic, starts, ends)
    finally:
        consumer.close()
    records: dict[bytes, MarkerRecord] = {}
    for key, record in written:
        records.pop(key, None)
        if record is not None:
            records[key] = record
    open_ones = {number: at for number, at in reached.items() if at < ends[number]}
    return Markers(records, _hidden(client, topic, open_ones, ends) if open_ones else [])


def _ends(client: KafkaClient, topic: str, numbers: Sequence[int]) -> dict[int, int]:
    """By partition, the offset behind its last message, of open transactions too."""
    found = latest(client, [Partition(topic, n, "") for n in numbers], committed=False)
    return {n: found[split_id(topic, n)] for n in numbers}


def _hidden(
    client: KafkaClient, topic: str, starts: Mapping[int, int], ends: Mapping[int, int]
) -> list[tuple[bytes, MarkerRecord | None]]:
    consumer = client.consumer(isolation_level="read_uncommitted", fetch_wait_max_ms=10)
    try:
        with client.errors(f"read topic '{topic}'"):
            return _read(client, consumer, topic, starts, ends)[0]
    finally:
        consumer.close()


def _read(
    client: KafkaClient,
    consumer: Consumer,
    topic: str,
    starts: Mapping[int, int],
    ends: Mapping[int, int],
) -> tuple[list[tuple[bytes, MarkerRecord | None]], dict[int, int]]:
    """What the consumer gets of partitions, at least up to their ends, and the offsets that it has reached."""
    doing = f"read topic '{topic}'"
    written: list[tuple[bytes, MarkerRecord | None]] = []
    reached: dict[int, int] = {}
    consumer.assign([TopicPartition(topic, number, at) for number, at in starts.items()])
    until = time.monotonic() + client.config.timeout
    while len(reached) < len(starts):
        messages = consumer.consume(10_000, 0.1)
        if messages:
            until = time.monotonic() + client.config.timeout
        elif time.monotonic() > until:
            raise client.failed(KafkaError(KafkaError._TIMED_OUT), doing)
        for message in messages:
            error = message.error()
            number, offset = message.partition() or 0, message.offset() or 0
            if error is None:
                written.append(_record_of(message.key(), message.value()))
                if offset + 1 >= ends[number]:
                    reached[number] = offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                reached[number] = max(offset, reached.get(number, 0))
            else:
                raise client.failed(error, doing)
    return written, reached


def _record_of(
    key: bytes | str | None, value: bytes | str | None
) -> tuple[bytes, MarkerRecord | None]:
    name = key.encode() if isinstance(key, str) else key or b""
    return name, None if value is None else msgspec.json.decode(value, type=MarkerRecord)
