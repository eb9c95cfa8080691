"""The `kafka` destination: rows as messages, an epoch as a transaction, or each message at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
from confluent_kafka import KafkaError, Producer

from dataflare.connectors.kafka.client import KafkaClient, calls
from dataflare.connectors.kafka.committing import EpochCommitter
from dataflare.connectors.kafka.config import KafkaDestinationConfig
from dataflare.connectors.kafka.messages import MessageMaker, check_columns
from dataflare.connectors.kafka.sending import Sender, producer_settings
from dataflare.connectors.kafka.written_topics import Topics
from dataflare.errors import DataFlareError
from dataflare.model.types import Schema
from dataflare.sdk.brokers.writing import DirectWriter, EpochWriter
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import (
    Committable,
    Committer,
    Delivery,
    DestinationCapabilities,
    DestinationConnector,
    NoCommitter,
    Target,
    Writer,
)
from dataflare.sdk.threads import in_thread


class KafkaDestination(DestinationConnector):
    """A topic, or one for each value of a column."""

    type = "kafka"
    Config = KafkaDestinationConfig
    summary = "Writes messages to topics of Apache Kafka, exactly once by transactions, or at once."
    example = """\
out:
  type: kafka
  inputs: [orders]
  config:
    bootstrap_servers: localhost:9092
    topic: orders-clean
    key: customer_id
"""

    def __init__(self, config: KafkaDestinationConfig, context: Any) -> None:
        super().__init__(config, context)
        self._client_: KafkaClient | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client_": None}

    @property
    def _client(self) -> KafkaClient:
        if self._client_ is None:
            self._client_ = KafkaClient(self.config, self.context)
        return self._client_

    @property
    def _exactly_once(self) -> bool:
        return bool(self.config.guarantee == "exactly_once")

    @property
    def adds_for_good(self) -> bool:
        return self._exactly_once

    def capabilities(self) -> DestinationCapabilities:
        keyed = self.config.mode != "append"
        if self._exactly_once:
            delivery = Delivery.TRANSACTIONAL
            reason = "messages and epoch are one transaction, for readers with read_committed"
        elif keyed:
            delivery = Delivery.IDEMPOTENT
            reason = "the last message of a key is its row; messages come again after a crash"
        else:
            delivery = Delivery.REPEATING
            reason = "messages are sent at once, and again after a crash"
        if self.config.mode == "upsert":
            reason += "; upsert ignores deletes"
        return DestinationCapabilities(
            delivery, reason, changelog=keyed, changelog_with="mode: upsert or mirror with a key"
        )

    def writes_to(self) -> Target | None:
        return Target(self._place, shared=True)

    def identity(self) -> str | None:
        return self._place

    @property
    def _place(self) -> str:
        return f"topic '{self.config.topic}' of Kafka at {self.config.servers}"

    async def inspect(self) -> Mapping[str, str]:
        return await in_thread(self._inspect)

    def _inspect(self) -> Mapping[str, str]:
        client = self._client
        with client.errors("list topics"):
            listed = client.admin.list_topics(timeout=client.config.timeout)
        there = {}
        if not self.config.topic_columns:
            found = listed.topics.get(self.config.topic)
            partitions = f"{len(found.partitions)} partitions" if found else "not there yet"
            there = {"topic": f"'{self.config.topic}': {partitions}"}
        server = f"Kafka, {len(listed.brokers)} brokers, cluster {listed.cluster_id}"
        return {"server": server, **there}

    async def validate(self, schema: Schema) -> None:
        if schema.names:
            check_columns(self.config, self.context.step, schema)
        await in_thread(self._validate)

    def _validate(self) -> None:
        known = Topics(self._client, self.config)
        if not self.config.topic_columns and self.config.create_topic is False:
            known.limits(self.config.topic)
        else:
            known.reach()

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        return await in_thread(self._open, context, restored)

    def _open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        client = KafkaClient(self.config, self.context)
        topics = Topics(client, self.config)
        if not self.config.topic_columns:
            topics.limits(self.config.topic)
        maker = MessageMaker(self.config, self.context, context.schema, topics.limits)
        if self._exactly_once:
            return EpochWriter(maker, context, self._place, restored)
        return KafkaWriter(maker, context, self._place, client, topics.batch_bytes())

    async def committer(self, context: DestinationContext) -> Committer:
        if not self._exactly_once:
            return NoCommitter()
        client = KafkaClient(self.config, self.context)
        topics = Topics(client, self.config)
        return EpochCommitter(client, self.config, context, self._place, topics.batch_bytes)


class KafkaWriter(DirectWriter):
    """Sends messages at once, and waits for them at the checkpoint."""

    takes_at_once = True

    def __init__(
        self,
        maker: MessageMaker,
        context: DestinationContext,
        place: str,
        client: KafkaClient,
        batch_bytes: int,
    ) -> None:
        super().__init__(maker, context, place)
        self._client = client
        self._failure: KafkaError | None = None
        with client.errors(f"write to {place}"):
            self._producer = Producer(
                producer_settings(
                    client,
                    batch_bytes,
                    linger_ms=1,
                    delivery_timeout_ms=int(max(client.config.timeout, 1) * 1000),
                )
                | {"on_delivery": calls(self._delivered)}
            )
        self._sender = Sender(self._producer, client)

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None and self._failure is None:
            self._failure = error

    async def send(self, messages: pl.DataFrame) -> None:
        if self._sender.takes_at_once(messages):
            self._send(messages)
        else:
            await in_thread(self._send, messages)

    def _send(self, messages: pl.DataFrame) -> None:
        self._sender.send(messages)
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._broken(self._failure)

    def _broken(self, error: KafkaError) -> DataFlareError:
        return self._client.failed(error, f"write to {self._place}")

    async def flush(self) -> None:
        await in_thread(self._flush)

    def _flush(self) -> None:
        left = self._producer.flush(self._client.config.timeout + 5)
        self._check()
        if left:
            raise self._broken(KafkaError(KafkaError._TIMED_OUT))

    async def prepare(self, epoch: int, *, final: bool) -> Committable | None:
        await self.flush()
        return None

    async def aclose(self) -> None:
        # After an error, what was not sent must not hold up the end of the run.
        await in_thread(self._producer.purge)
