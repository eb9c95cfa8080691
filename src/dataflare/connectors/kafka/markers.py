"""The topic that records which epoch of which lineage is in which topics.

Always true: a marker is in the same transaction as the messages of its epoch; the last marker of a lineage and step
is the valid one. The topic is compacted, so it stays small.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import msgspec
from confluent_kafka import KafkaError, TopicPartition
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]
from msgspec import Struct

from dataflare.connectors.kafka.client import KafkaClient
from dataflare.connectors.kafka.errors import error_of
from dataflare.errors import SystemError_
from dataflare.sdk.destination import Marker, Owner

_MANIFEST_MAX = 256 << 10
"""A longer manifest is left out: the checkpoints have it."""
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


def read_markers(client: KafkaClient, topic: str) -> dict[bytes, MarkerRecord]:
    """The markers by key, the last written one last. Transactions that have not ended are waited for."""
    doing = f"read topic '{topic}'"
    consumer = client.consumer(isolation_level="read_committed", fetch_wait_max_ms=10)
    found: dict[bytes, MarkerRecord] = {}
    try:
        with client.errors(doing):
            listed = consumer.list_topics(topic, timeout=client.config.timeout).topics[topic]
            if listed.error is not None or not listed.partitions:
                return {}
            left = set(listed.partitions)
            places = [TopicPartition(topic, number) for number in left]
            for place in places:
                low, _ = consumer.get_watermark_offsets(place, timeout=client.config.timeout)
                place.offset = low
            consumer.assign(places)
            end = time.monotonic() + client.config.timeout
            while left:
                messages = consumer.consume(10_000, 0.1)
                if not messages and time.monotonic() > end:
                    raise SystemError_(
                        f"Kafka at {client.servers} did not answer in time: {doing}",
                        code="E0608",
                        help="see whether the brokers work, or raise 'timeout'",
                    )
                for message in messages:
                    error = message.error()
                    if error is None:
                        _note(found, message.key(), message.value())
                    elif error.code() == KafkaError._PARTITION_EOF:
                        left.discard(message.partition())
                    else:
                        raise client.failed(error, doing)
    finally:
        consumer.close()
    return found


def _note(
    found: dict[bytes, MarkerRecord], key: bytes | str | None, value: bytes | str | None
) -> None:
    name = key.encode() if isinstance(key, str) else key or b""
    found.pop(name, None)
    if value is not None:
        found[name] = msgspec.json.decode(value, type=MarkerRecord)
