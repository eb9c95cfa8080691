"""Messages of brokers name the trace that they are written in, and none is refused for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from dataflare.formats.messages.contract import Encoder
from dataflare.model.types import Schema
from dataflare.sdk.brokers.reader import Message, _headers
from dataflare.sdk.brokers.rows import Made, MessageMaker, Shape
from dataflare.sdk.runtime import Runtime
from dataflare.sdk.tracing import inside, parents_of
from dataflare.testing import destination_of

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
ROWS = pl.DataFrame({"n": [1, 2], "h": ["x", None]})


class Numbers(Encoder):
    """A value of one byte for each row."""

    def encode(self, frame: pl.DataFrame) -> Any:
        values = pl.Series("value", [b"v"] * frame.height, pl.Binary)
        bad = pl.DataFrame(schema={"message": pl.Int64, "error": pl.String})
        return SimpleNamespace(values=values, headers=None, bad=bad)


def made(shape: Shape, unfit: Any = list) -> Made:
    span: Any = SimpleNamespace(context=None, traceparent=PARENT, end=lambda error=None: None)
    with inside(span):
        return MessageMaker(shape, Schema.from_polars(ROWS.schema), Numbers(), unfit).make(ROWS)


def headers(messages: Made) -> list[Any]:
    return [
        None if each is None else {h["key"]: h["value"] for h in each}
        for each in messages.messages["headers"].to_list()
    ]


def test_the_trace_is_beside_the_headers_of_the_options():
    shape = Shape(["t"], headers={"own": "h"}, names_trace=True)
    parent = PARENT.encode()
    assert headers(made(shape)) == [
        {"own": b"x", "traceparent": parent},
        {"own": None, "traceparent": parent},
    ]


def test_a_column_with_that_header_is_left_as_it_is():
    shape = Shape(["t"], headers={"traceparent": "h"}, names_trace=True)
    assert headers(made(shape)) == [{"traceparent": b"x"}, {"traceparent": None}]


def test_a_system_without_headers_gets_none():
    assert headers(made(Shape(["t"]))) == [None, None]


def test_a_message_that_would_not_fit_with_it_goes_without():
    def unfit() -> list[pl.Expr]:
        too_many = pl.col("headers").list.len().fill_null(0) > 1
        first = pl.col("headers").list.first().struct.field("value") == b"x"
        return [pl.when(too_many & first).then(pl.lit("too many headers"))]

    shape = Shape(["t"], headers={"own": "h"}, names_trace=True)
    found = made(shape, unfit)
    assert found.refused.height == 0
    assert headers(found) == [{"own": b"x"}, {"own": None, "traceparent": PARENT.encode()}]


@pytest.mark.parametrize(
    ("type_", "config"),
    [
        ("nats", {"connection": "nats://h", "subject": "s"}),
        ("rabbitmq", {"connection": "amqp://h", "routing_key": "q"}),
        ("mqtt", {"connection": "mqtt://h", "topic": "t"}),
        ("pulsar", {"connection": "pulsar://h", "topic": "t"}),
        ("sqs", {"queue": "q", "region": "eu-central-1"}),
    ],
)
def test_the_brokers_that_have_headers_carry_it(type_: str, config: dict[str, Any]):
    assert destination_of(type_, config).config.shape.names_trace


def test_traces_are_found_in_what_a_broker_tells_of_a_message():
    told = [{"key": "traceparent", "value": PARENT.encode()}, {"key": "x", "value": None}]
    messages = [
        Message(b"", {"headers": told}, "here", 1),
        Message(b"", {"headers": None}, "here", 1),
        Message(b"", {}, "here", 1),
    ]
    assert parents_of(messages, _headers) == ()
    with Runtime().entered() as runtime:
        runtime.tracer = object()
        assert parents_of(messages, _headers) == (PARENT,)
