"""Read one partition: batches of messages, as chunks that are decoded on the worker pool.

Always true: a chunk has the messages of consecutive offsets, as far as the topic has them; its position is behind
the last of them; no message is passed over unless `lost_offsets` is skip, and then it is told how many were.

It has a thread of its own, because a consumer's calls wait for messages and other blocking calls of a run must not
wait for them.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import polars as pl
from confluent_kafka import Consumer, KafkaError, TopicPartition

from dataflare.connectors.kafka.client import KafkaClient
from dataflare.connectors.kafka.topics import Partition, earliest
from dataflare.errors import DataFlareError, SystemError_
from dataflare.formats.messages.envelope import HEADERS, Envelope
from dataflare.model.progress import Position
from dataflare.model.types import BINARY, INT32, INT64, STRING, Schema, timestamp
from dataflare.sdk.messages.batches import Decoder, MessageBatch
from dataflare.sdk.source import Chunk, ChunkReader, EndOfSplit
from dataflare.sdk.tracing import parents_of

MESSAGE = Schema.of(
    [
        ("key", BINARY),
        ("topic", STRING),
        ("partition", INT32),
        ("offset", INT64),
        ("timestamp", timestamp("ms", "UTC")),
        ("headers", HEADERS),
    ]
)
"""What Kafka says of a message beside its value."""
_CHUNK_BYTES = 2 << 20
_MESSAGES_FIRST, _MESSAGES_MAX = 1_000, 20_000
_LOOK_S = 0.1
"""How long it waits for a message before it looks whether it was closed."""
_BOUNDED_HOLD_S = 0.05
_FETCH_PAUSE_MS = 10
"""How long the client waits before it fetches again when it has enough ahead. Its default, a second, is longer than its
100,000 messages of 200 bytes last: a third of a run was waiting."""


class PartitionReader(ChunkReader):
    """partition: to read from `start` to before `stop`, or without end. queue_bytes: what the client may fetch
    ahead."""

    def __init__(
        self,
        client: KafkaClient,
        envelope: Envelope,
        partition: Partition,
        start: int,
        stop: int | None,
        *,
        isolation: str,
        skips_lost: bool,
        queue_bytes: int,
    ) -> None:
        self._client, self._partition = client, partition
        self._next, self._stop, self._skips_lost = start, stop, skips_lost
        self._named = envelope.reads
        self._settings = {
            "isolation_level": isolation,
            "queued_max_messages_kbytes": max(1, queue_bytes >> 10),
            "fetch_message_max_bytes": min(4 << 20, queue_bytes),
            "fetch_queue_backoff_ms": _FETCH_PAUSE_MS,
        } | ({} if stop is None else {"fetch_wait_max_ms": 50})
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka-reader")
        self._consumer: Consumer | None = None
        self._failure: KafkaError | None = None
        self._messages_max = _MESSAGES_FIRST
        self._closed = self._ended = self._told_end = False
        self._value, self._unread = envelope.value, list[Any]()
        """Messages that come behind a TRUNCATE, which is alone in its chunk, or with one."""
        self.warnings: dict[str, int] = {}
        self.decoder = Decoder(envelope, self.warnings)

    def position(self) -> Position:
        where = self._partition
        return Position(
            {
                "topic": where.topic,
                "partition": where.number,
                "offset": self._next,
                "topic_id": where.topic_id,
            }
        )

    async def read_chunk(self) -> Chunk:
        if self._told_end:
            raise EndOfSplit
        messages, self._unread = self._unread, []
        if not messages and not self._ended and (self._stop is None or self._next < self._stop):
            messages = await asyncio.get_running_loop().run_in_executor(self._thread, self._read)
        if messages:
            messages, self._unread = self._parted(messages)
            self._next = messages[-1].offset() + 1
            return self._chunk(messages)
        # The next run goes on here, also where no message of the split was read.
        self._told_end = True
        self._next = max(self._next, self._stop or 0)
        return self._chunk([])

    async def aclose(self) -> None:
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def _parted(self, messages: list[Any]) -> tuple[list[Any], list[Any]]:
        """Those up to a TRUNCATE, or it alone, and the others."""
        for at, message in enumerate(messages):
            if self._value.is_truncation(message.value()):
                return messages[: max(at, 1)], messages[max(at, 1) :]
        return messages, []

    # -- on the reader's thread --------------------------------------------------------------------

    def _read(self) -> list[Any]:
        """The next messages, at least one; none at the end of the split, or when it was closed."""
        hold_s = self.hold_s if self._stop is None else max(self.hold_s, _BOUNDED_HOLD_S)
        with self._client.errors(f"read {self._partition}"):
            while not self._closed:
                if self._failure is not None:
                    self._fail(self._failure)
                consumer = self._opened()
                first = consumer.poll(_LOOK_S)
                if first is None:
                    self._look_for_brokers()
                    continue
                found = [first]
                if first.error() is None:
                    found += consumer.consume(self._messages_max - 1, hold_s)
                messages, ended = self._sorted(found)
                if messages:
                    self._next = messages[-1].offset() + 1
                    return messages
                if ended:
                    return []
        return []

    def _opened(self) -> Consumer:
        if self._consumer is None:
            place = TopicPartition(self._partition.topic, self._partition.number, self._next)
            self._consumer = self._client.consumer(**self._settings)
            self._consumer.assign([place])
        return self._consumer

    def _sorted(self, found: list[Any]) -> tuple[list[Any], bool]:
        """The messages before the end of the split, and whether it was reached. An error is kept for the
        next call."""
        self._client.is_well()
        errors = [message.error() for message in found]
        messages, ended = found, False
        if any(errors):
            messages = []
            for message, error in zip(found, errors, strict=True):
                if error is None:
                    messages.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended |= self._stop is not None and message.offset() >= self._stop
                else:
                    self._failure = error
                    break
        if self._stop is not None and messages and messages[-1].offset() >= self._stop:
            messages = [each for each in messages if each.offset() < self._stop]
            ended = True
        self._ended |= ended and bool(messages)
        return messages, ended

    def _look_for_brokers(self) -> None:
        """Nothing came for a moment. When no broker could be reached for `timeout`, ask one; raises what
        it says."""
        since = self._client.down_since
        if since is None or time.monotonic() - since < self._client.config.timeout:
            return
        assert self._consumer is not None
        self._consumer.list_topics(self._partition.topic, timeout=self._client.config.timeout)
        self._client.is_well()

    def _fail(self, error: KafkaError) -> None:
        """Raise for an error, or go on behind messages that are lost."""
        self._failure = None
        if error.code() not in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise self._client.failed(error, f"read {self._partition}")
        oldest = earliest(self._client, [self._partition])[self._partition.id]
        if oldest <= self._next or (self._stop is not None and oldest > self._stop):
            raise self._shorter()
        if not self._skips_lost:
            raise self._lost(oldest)
        text = f"{self._partition}: messages were removed from the topic before they were read"
        self.warnings[text] = self.warnings.get(text, 0) + oldest - self._next
        self._next = oldest
        self._close()

    def _lost(self, oldest: int) -> DataFlareError:
        return SystemError_(
            f"{self._partition} of Kafka at {self._client.servers} does not have offset {self._next} any more: its "
            f"oldest message is {oldest}, so {oldest - self._next:,} offsets are lost",
            code="E0605",
            step=self._client.step,
            help="keep messages for longer (retention.ms, retention.bytes), and set lost_offsets: skip to go on "
            "with the oldest message",
        )

    def _shorter(self) -> DataFlareError:
        return SystemError_(
            f"{self._partition} of Kafka at {self._client.servers} ends before offset {self._next}, up to which it "
            "was read: messages that were there are gone",
            code="E0605",
            step=self._client.step,
            notes=["the topic was emptied, or brokers were lost with messages that no other had"],
            help="run with --fresh to read it from the start",
        )

    # -- chunks ------------------------------------------------------------------------------------

    def _chunk(self, messages: list[Any]) -> Chunk:
        batch = Batch(self, self._partition, messages, self._named)
        if messages:
            average = batch.num_bytes // len(messages) + 1
            size, least = _CHUNK_BYTES, _MESSAGES_FIRST
            if self.bytes_max is not None:
                size, least = min(size, self.bytes_max), 1
            self._messages_max = max(least, min(_MESSAGES_MAX, size // average))
        return batch.chunk(self.position(), batch.offsets[0] if messages else self._next)

    def place_of(self, offset: int) -> str:
        return f"{self._partition.topic} partition {self._partition.number} offset {offset}"


class Batch(MessageBatch):
    """named: what is read of the messages besides their values."""

    def __init__(
        self,
        reader: PartitionReader,
        partition: Partition,
        messages: list[Any],
        named: frozenset[str],
    ) -> None:
        values = [message.value() for message in messages]
        self.offsets = [message.offset() for message in messages]
        self.num_bytes = sum(map(len, filter(None, values)))
        super().__init__(reader.decoder)
        self._reader = reader
        self.parents = parents_of(messages, lambda message: message.headers())
        columns: dict[str, Any] = {"value": partial(pl.Series, "value", values, pl.Binary)}
        if "key" in named:
            keys = [message.key() for message in messages]
            self.num_bytes += sum(map(len, filter(None, keys)))
            columns["key"] = partial(pl.Series, "key", keys, pl.Binary)
        if "headers" in named:
            headers = [
                None if (found := message.headers()) is None else [
                    {"key": name, "value": value} for name, value in found
                ]
                for message in messages
            ]  # fmt: skip
            columns["headers"] = partial(pl.Series, "headers", headers, HEADERS.to_polars())
        if "timestamp" in named:
            times = [message.timestamp() for message in messages]
            millis = [ms if kind else None for kind, ms in times]
            dtype = MESSAGE["timestamp"].to_polars()
            columns["timestamp"] = lambda: pl.Series("timestamp", millis, pl.Int64).cast(dtype)
        self._columns = columns
        self._fixed = {"topic": partition.topic, "partition": partition.number}
        self._named = named

    def __len__(self) -> int:
        return len(self.offsets)

    def frame(self) -> pl.DataFrame:
        frame = pl.DataFrame([make() for make in self._columns.values()])
        if "offset" in self._named:
            frame = frame.with_columns(offset=pl.Series(self.offsets, dtype=pl.Int64))
        fixed = {
            name: pl.lit(value, MESSAGE[name].to_polars())
            for name, value in self._fixed.items()
            if name in self._named
        }
        return frame.with_columns(**fixed) if fixed else frame

    def place(self, message: int) -> str:
        return self._reader.place_of(self.offsets[message])
