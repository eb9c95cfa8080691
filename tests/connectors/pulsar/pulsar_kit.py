"""A topic of its own for a test, with what goes into it and what is in it, by the client library alone."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pulsar
from broker_moving import BrokerPlace
from servers.pulsar import PulsarServer

_numbers = itertools.count()


class Place(BrokerPlace):
    """A topic, and a folder for runs. partitions: 0: it is not a partitioned one."""

    def __init__(self, server: PulsarServer, folder: Path, partitions: int = 0) -> None:
        self.server, self.folder = server, folder
        self.topic = f"t{next(_numbers)}"
        if partitions:
            server.ask("PUT", f"persistent/public/default/{self.topic}/partitions", partitions)

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        made = pulsar.Client(
            self.server.url,
            authentication=pulsar.AuthenticationToken(self.server.token),
            logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, os.devnull),
        )
        try:
            yield made
        finally:
            made.close()

    def put(self, values: Iterable[bytes], batching: bool = True, **more: Any) -> None:
        """more: what `send_async` takes."""
        results: list[Any] = []
        with self.client() as client:
            producer = client.create_producer(
                self.topic, block_if_queue_full=True, batching_enabled=batching,
                batching_max_publish_delay_ms=1,
            )  # fmt: skip
            for value in values:
                producer.send_async(value, lambda result, _: results.append(result), **more)
            producer.flush()
        assert {*results} <= {pulsar.Result.Ok}

    def numbers(self, first: int, after: int) -> None:
        self.put(json.dumps({"n": n, "text": f"row {n}"}).encode() for n in range(first, after))

    def messages(self, topic: str | None = None) -> list[Any]:
        """All that a topic has."""
        found = []
        with self.client() as client:
            for name in client.get_topic_partitions(topic or self.topic):
                reader = client.create_reader(name, pulsar.MessageId.earliest)
                while reader.has_message_available():
                    found.append(reader.read_next(10_000))
        return found

    def backlog(self, subscription: str = "s") -> int:
        """How many messages are not acknowledged, as the broker counts them: by batches."""
        path = f"persistent/public/default/{self.topic}/stats?getPreciseBacklog=true"
        found = json.loads(self.server.ask("GET", path))["subscriptions"]
        return int(found[subscription]["msgBacklog"])

    def filled(self, workflow: str) -> str:
        server = self.server
        return (
            workflow.replace("TOPIC", self.topic)
            .replace("SERVER", server.url)
            .replace("JWT", server.token)
        )
