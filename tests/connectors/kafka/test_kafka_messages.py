"""Rows to messages, without a broker."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataflare.connectors.kafka.client import KafkaClient
from dataflare.connectors.kafka.config import KafkaDestinationConfig
from dataflare.connectors.kafka.messages import MESSAGES, Limits, MessageMaker
from dataflare.connectors.kafka.sending import Sender
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext

SCHEMA = {"id": pl.String, "text": pl.String}
ROWS = st.lists(
    st.tuples(st.none() | st.text("a", max_size=80), st.none() | st.text("bé", max_size=80)),
    min_size=1, max_size=6,
)  # fmt: skip


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"key": ["id"]},
        {"key": ["id"], "mode": "upsert"},
        {"headers": {"h": "id"}},
        {"topic": "t-{id}"},
    ],
)
@given(rows=ROWS, message_bytes=st.integers(100, 400), needs_key=st.booleans())
@example(rows=[("a" * 80, "b" * 80), ("a", "b")], message_bytes=286, needs_key=False)
def test_the_quick_look_lets_no_message_pass_that_the_topic_would_refuse(
    more: dict[str, Any],
    rows: list[tuple[str | None, str | None]],
    message_bytes: int,
    needs_key: bool,
) -> None:
    config = KafkaDestinationConfig(bootstrap_servers="localhost:9092", **{"topic": "t", **more})
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    limits = Limits(4, message_bytes, needs_key)
    maker = MessageMaker(
        config, ConnectorContext("out"), Schema.from_polars(frame.schema), lambda topic: limits
    )
    quick = maker.make(frame)
    maker._all_fit = lambda messages: False  # type: ignore[method-assign]
    exact = maker.make(frame)
    assert quick.messages.equals(exact.messages)
    assert quick.refused.height == exact.refused.height


class Queue:
    """A producer with so many messages in its queue, which takes no more time than it is asked for."""

    def __init__(self, queued: int) -> None:
        self.queued, self.sent, self.waited_s = queued, 0, 0.0

    def __len__(self) -> int:
        return self.queued

    def poll(self, seconds: float) -> None:
        self.waited_s += seconds
        self.queued = max(0, self.queued - 100) if seconds else self.queued

    def produce_batch(self, topic: str, messages: list[dict[str, Any]]) -> int:
        self.sent += len(messages)
        return len(messages)


@pytest.mark.parametrize(
    ("queued", "rows", "size", "at_once"),
    [
        (0, 1, 10, True),
        (0, 499, 100, True),
        (0, 500, 100, False),
        (2_000, 1, 10, True),
        (2_001, 1, 10, False),
        (0, 2, 300 << 10, False),
        (300, 1, 200 << 10, True),
        (400, 1, 200 << 10, False),
    ],
)
def test_what_is_sent_at_once_waits_for_nothing(
    queued: int, rows: int, size: int, at_once: bool
) -> None:
    config = KafkaDestinationConfig(bootstrap_servers="localhost:9092", topic="t")
    queue: Any = Queue(queued)
    sender = Sender(queue, KafkaClient(config, ConnectorContext("out")))
    values = pl.Series("value", [b"x" * size] * rows, pl.Binary)
    messages = pl.DataFrame({"topic": ["t"] * rows}).with_columns(values)
    messages = pl.concat([MESSAGES.to_frame(), messages], how="diagonal_relaxed")
    assert sender.takes_at_once(messages) is at_once
    sender.send(messages)
    assert queue.sent == rows
    assert not (at_once and queue.waited_s)
