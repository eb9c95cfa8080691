"""Traces go through messages: their headers name one, and say which one wrote them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from kafka_kit import Place, row

from dataflare.connectors import memory
from dataflare.jobs import RunOptions, run
from dataflare.sdk.runtime import current
from dataflare.workflow.load import load_text

GIVEN = f"00-{'a' * 32}-{'b' * 16}-01"
COPY = """\
name: traced
sources:
  given:
    type: kafka
    config: {bootstrap_servers: "SERVERS", topic: TOPIC, stop: latest}
    schema: {n: int64}
destinations:
  out: {type: kafka, inputs: [given], config: {bootstrap_servers: "SERVERS", topic: TOPIC-out}}
"""
BACK = """\
name: back
sources:
  t:
    type: kafka
    config: {bootstrap_servers: "SERVERS", topic: TOPIC-out, stop: latest, metadata: [headers]}
destinations:
  out: {type: memory, inputs: [t], config: {name: back}}
"""


class Spans:
    """A tracer that remembers. due: of every batch."""

    def __init__(self) -> None:
        self.links: dict[str, list[Any]] = {}

    def is_due(self) -> bool:
        return True

    def begin(self, name: str, *, links: Any = (), **_: Any) -> Any:
        self.links[name] = [*links]
        number = len(self.links)
        parent = f"00-{'c' * 32}-{number:016x}-01"
        return SimpleNamespace(context=name, traceparent=parent, end=lambda error=None: None)


def headers_after(place: Place, *, traced: bool) -> tuple[Spans, list[Any]]:
    spans = Spans()

    @contextmanager
    def observer(_: Any) -> Iterator[None]:
        current().tracer = spans if traced else None
        yield

    options = RunOptions(place.folder / "home", observers=[observer])
    assert run(load_text(place.filled(COPY), base=place.folder), options).error is None
    back = load_text(place.filled(BACK), base=place.folder)
    assert run(back, RunOptions(place.folder / "home")).error is None

    frame = memory.committed("back")
    return spans, frame["_headers"].to_list()


def test_a_trace_goes_through_messages(place: Place) -> None:
    place.cluster.create_topic(f"{place.topic}-out", 1, {})
    place.put({"value": row(n), "headers": [("traceparent", GIVEN.encode())]} for n in range(10))
    spans, headers = headers_after(place, traced=True)
    assert spans.links["read given"] == [GIVEN]
    assert len(headers) == 10
    for each in headers:
        (header,) = each
        assert header["key"] == "traceparent"
        assert header["value"].decode().startswith(f"00-{'c' * 32}-")


def test_a_run_that_is_not_traced_writes_no_header(place: Place) -> None:
    place.cluster.create_topic(f"{place.topic}-out", 1, {})
    place.put({"value": row(n), "headers": [("traceparent", GIVEN.encode())]} for n in range(3))
    _, headers = headers_after(place, traced=False)
    assert headers == [None] * 3
