"""A topic of its own for a test, with what goes into it and what is in it, by the client library alone."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from broker_moving import BrokerPlace
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from servers.kafka import KafkaCluster

Found = tuple[int, int, bytes | None, bytes | None]
"""Partition, offset, key and value of a message."""


class Place(BrokerPlace):
    """A topic, and a folder for runs. cluster: the servers."""

    def __init__(
        self, cluster: KafkaCluster, folder: Path, topic: str, partitions: int = 1, **settings: str
    ) -> None:
        self.cluster, self.folder, self.topic = cluster, folder, topic
        cluster.create_topic(
            topic, partitions, {n.replace("_", "."): v for n, v in settings.items()}
        )

    def put(self, messages: Iterable[Any], topic: str | None = None) -> None:
        """messages: values, or dicts with what `produce` takes."""
        with self.producer() as producer:
            send(producer, topic or self.topic, messages)

    def numbers(self, first: int, after: int, **more: Any) -> None:
        """Rows {"n": first} to {"n": after - 1}, each with its number as its key."""
        self.put({"value": row(n), "key": str(n % 7), **more} for n in range(first, after))

    @contextlib.contextmanager
    def producer(self, **more: Any) -> Iterator[Producer]:
        settings = {"bootstrap.servers": self.cluster.bootstrap, "log_level": 0, "linger.ms": 5,
                    "enable.idempotence": True}  # fmt: skip
        producer = Producer(settings | {n.replace("_", "."): v for n, v in more.items()})
        yield producer
        producer.flush(30)

    def messages(self, topic: str | None = None, isolation: str = "read_committed") -> list[Found]:
        """What is in the topic now, by partition and offset."""
        return contents(self.cluster.bootstrap, topic or self.topic, isolation)

    def values(self, topic: str | None = None) -> list[Any]:
        return [json.loads(value) for _, _, _, value in self.messages(topic) if value is not None]

    def filled(self, workflow: str) -> str:
        return workflow.replace("TOPIC", self.topic).replace("SERVERS", self.cluster.bootstrap)


def row(n: int) -> bytes:
    return json.dumps({"n": n, "text": f"row {n}"}).encode()


def send(producer: Producer, topic: str, messages: Iterable[Any]) -> None:
    for message in messages:
        parts: Mapping[str, Any] = message if isinstance(message, dict) else {"value": message}
        while True:
            try:
                producer.produce(topic, **parts)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0


def contents(servers: str, topic: str, isolation: str) -> list[Found]:
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "tests", "isolation.level": isolation,
         "enable.auto.commit": False, "enable.partition.eof": True, "log_level": 0,
         "fetch.wait.max.ms": 10}
    )  # fmt: skip
    found: list[Found] = []
    try:
        known = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        left = set(known)
        consumer.assign([TopicPartition(topic, number, 0) for number in known])
        while left:
            for message in consumer.consume(10_000, 0.2):
                error = message.error()
                if error is None:
                    found.append(
                        (message.partition(), message.offset(), message.key(), message.value())
                    )
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    raise AssertionError(error)
    finally:
        consumer.close()
    return sorted(found)
