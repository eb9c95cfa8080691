"""Hand messages to the client library, a batch at a time. Blocking."""

from __future__ import annotations

from typing import Any

import polars as pl
from confluent_kafka import KafkaException, Producer

from dataflare.connectors.kafka.client import KafkaClient
from dataflare.errors import Retry, SystemError_

_QUEUED_BYTES = 64 << 20
_QUEUED_MESSAGES = 200_000
_SLICE_ROWS = 5_000
_FEW_MESSAGES, _FEW_BYTES, _FEW_QUEUED = 500, 512 << 10, 2_000


def producer_settings(client: KafkaClient, batch_bytes: int, **more: Any) -> dict[str, Any]:
    """Those of every producer: it sends each message once and in order, also when it sends it again."""
    config: Any = client.config
    return client.settings(
        enable_idempotence=True,
        partitioner=config.partitioner,
        message_max_bytes=1_000_000_000,
        queue_buffering_max_messages=0,
        queue_buffering_max_kbytes=2_097_151,
        delivery_report_only_error=True,
        batch_size=batch_bytes,
        **{"compression_type": config.compression, **more},
    )


class Sender:
    """Queues messages of one producer, not too many at a time."""

    def __init__(self, producer: Producer, client: KafkaClient) -> None:
        self._producer, self._client = producer, client

    def takes_at_once(self, messages: pl.DataFrame) -> bool:
        """Whether to send them waits for nothing, and takes no longer than to ask another thread."""
        if not 0 < messages.height < _FEW_MESSAGES or messages.estimated_size() > _FEW_BYTES:
            return False
        return len(self._producer) <= min(_FEW_QUEUED, _room(messages))

    def send(self, messages: pl.DataFrame) -> None:
        """Queue the messages in their order. Raises SystemError_ for what the client does not take."""
        for part in messages.iter_slices(_SLICE_ROWS):
            self._wait(_room(part))
            # The client's call for a batch takes neither headers nor times.
            if part["headers"].null_count() == part["timestamp"].null_count() == part.height:
                self._send_batch(part)
            else:
                self._send_each(part)
            self._producer.poll(0)

    def _wait(self, room: int) -> None:
        """Wait until fewer messages than this are queued. Raises when none is sent for `timeout`."""
        waited, before = 0.0, len(self._producer)
        while (queued := len(self._producer)) > room:
            self._producer.poll(0.05)
            waited = waited + 0.05 if queued >= before else 0.0
            before = queued
            if waited > self._client.config.timeout:
                raise self._stuck(queued)

    def _stuck(self, queued: int) -> SystemError_:
        return SystemError_(
            f"Kafka at {self._client.servers} took none of {queued:,} messages for {self._client.config.timeout:g} s",
            code="E0608",
            retry=Retry.LATER,
            help="see whether the brokers work, or raise 'timeout'",
        )

    def _send_batch(self, part: pl.DataFrame) -> None:
        """One call for each topic in a row."""
        has_partitions = part["partition"].null_count() < part.height
        topics = part["topic"]
        runs = topics.rle_id() if topics.n_unique() > 1 else None
        groups = [part] if runs is None else part.group_by(runs, maintain_order=True)
        for group in groups:
            rows = group if isinstance(group, pl.DataFrame) else group[1]
            pairs = zip(rows["key"].to_list(), rows["value"].to_list(), strict=True)
            batch: list[dict[str, Any]] = [{"key": key, "value": value} for key, value in pairs]
            if has_partitions:
                for each, number in zip(batch, rows["partition"], strict=True):
                    if number is not None:
                        each["partition"] = number
            with self._client.errors(f"write topic '{rows['topic'][0]}'"):
                queued = self._producer.produce_batch(rows["topic"][0], batch)
                if queued != len(batch):
                    wrong = next(each["_error"] for each in batch if each.get("_error") is not None)
                    raise KafkaException(wrong)

    def _send_each(self, part: pl.DataFrame) -> None:
        for message in part.iter_rows(named=True):
            more: dict[str, Any] = {}
            if message["partition"] is not None:
                more["partition"] = message["partition"]
            if message["timestamp"] is not None:
                more["timestamp"] = message["timestamp"]
            headers = [(each["key"], each["value"]) for each in message["headers"] or ()]
            with self._client.errors(f"write topic '{message['topic']}'"):
                self._producer.produce(
                    message["topic"], message["value"], message["key"], headers=headers, **more
                )


def _room(messages: pl.DataFrame) -> int:
    """How many messages of this size may be queued."""
    if messages.height < _FEW_MESSAGES:
        size = sum(len(each) for name in ("key", "value") for each in messages[name] if each)
    else:
        sizes = pl.col("value").bin.size().fill_null(0) + pl.col("key").bin.size().fill_null(0)
        size = int(messages.select(sizes).sum().item() or 0)
    return min(_QUEUED_MESSAGES, max(1, _QUEUED_BYTES // max(1, size // messages.height)))
