"""The `kafka` destination: rows as messages, an epoch as a transaction, or each message at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from confluent_kafka import KafkaError, Producer

from dataflare.connectors.kafka.client import KafkaClient, calls
from dataflare.connectors.kafka.committing import EpochCommitter
from dataflare.connectors.kafka.config import KafkaDestinationConfig
from dataflare.connectors.kafka.messages import MessageMaker, check_columns
from dataflare.connectors.kafka.sending import Sender, producer_settings
from dataflare.connectors.kafka.written_topics import Topics
from dataflare.errors import DataError, DataFlareError
from dataflare.model.batch import SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import (
    Committable,
    Committer,
    Delivery,
    DestinationCapabilities,
    DestinationConnector,
    NoCommitter,
    RefusedRow,
    Target,
    Writer,
    WriteStats,
)
from dataflare.sdk.sql import redo
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
        return DirectWriter(maker, context, self._place, client, topics.batch_bytes())

    async def committer(self, context: DestinationContext) -> Committer:
        if not self._exactly_once:
            return NoCommitter()
        client = KafkaClient(self.config, self.context)
        topics = Topics(client, self.config)
        return EpochCommitter(client, self.config, context, self._place, topics.batch_bytes)


class _MessageWriter(Writer):
    """Makes messages of rows, and keeps those that a topic would refuse."""

    float_losses = ("nan", "infinite")

    def __init__(self, maker: MessageMaker, context: DestinationContext, place: str) -> None:
        self._maker, self._context, self._place = maker, context, place
        self._refused: list[RefusedRow] = []

    def _made(self, frame: pl.DataFrame) -> pl.DataFrame:
        made = self._maker.make(frame)
        if made.refused.height and not self._context.sift:
            raise self._refusal(made.refused)
        for row in made.refused.iter_rows(named=True):
            why = row.pop("why")
            self._refused.append(RefusedRow(row, "E0510", f"{self._place} refuses a row: {why}"))
        return made.messages

    def _refusal(self, refused: pl.DataFrame) -> DataError:
        row = refused.row(0, named=True)
        why = row.pop("why")
        text = ", ".join(f"{name}={value!r}" for name, value in row.items())
        return DataError(
            f"{self._place} refuses a row: {why}",
            code="E0510",
            step=self._context.step,
            notes=[f"the row: {text[:400]}"],
            help="fix the data, or set error_handling: {on_error: dead_letter}",
        )

    async def settle(self) -> Sequence[RefusedRow]:
        refused, self._refused = self._refused, []
        return refused


class EpochWriter(_MessageWriter):
    """Puts the messages of an epoch into a redo file; the committer sends them."""

    resumes = True

    def __init__(
        self,
        maker: MessageMaker,
        context: DestinationContext,
        place: str,
        restored: Committable | None,
    ) -> None:
        super().__init__(maker, context, place)
        self._redo = redo.RedoWriter(context.redo, context.attempt, context.subtask)
        self._rows_total = int(restored.data["rows_total"]) if restored is not None else 0
        self._sealed: tuple[int, redo.RedoFile] = (0, redo.RedoFile(None, "", 0))

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        num_bytes = batch.num_bytes
        if batch.num_rows:
            await in_thread(self._write, batch.frame, num_bytes)
        return WriteStats(batch.num_rows, num_bytes)

    def _write(self, frame: pl.DataFrame, num_bytes: int) -> None:
        # What may fail and is made again is before the redo file.
        messages = self._made(frame)
        if messages.height:
            self._redo.append(messages, num_bytes)

    async def prepare(self, epoch: int, *, final: bool) -> Committable:
        return await in_thread(self._prepare, epoch)

    def _prepare(self, epoch: int) -> Committable:
        if self._sealed[0] != epoch:
            self._sealed = epoch, self._redo.seal(epoch)
            crash_point("kafka.prepare.after_fsync")
            self._rows_total += self._sealed[1].rows
        data = {**self._sealed[1].to_json(), "rows_total": self._rows_total}
        return Committable(self._context.subtask, data)

    async def aclose(self) -> None:
        await in_thread(self._redo.close)


class DirectWriter(_MessageWriter):
    """Sends messages at once, and waits for them at the checkpoint."""

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

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        if batch.num_rows:
            await in_thread(self._write, batch.frame)
        return WriteStats(batch.num_rows, batch.num_bytes)

    def _write(self, frame: pl.DataFrame) -> None:
        self._sender.send(self._made(frame))
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
