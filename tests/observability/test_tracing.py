"""Spans over OTLP, at a receiver that reads them by the official protocol."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from servers.process import free_port
from servers.web import Answer, Asked, http_server

from dataflare.errors import SystemError_
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.jobs.watching import Watch
from dataflare.observability.otlp import Patience, target_of
from dataflare.observability.spans import PER_S, OtelTracer, tracing
from dataflare.sdk.runtime import Runtime, current
from dataflare.sdk.tracing import (
    below,
    called,
    inside,
    parents_of,
    trace_in,
    traceparent,
    traceparent_of,
)
from dataflare.workflow import load_text

WORKFLOW = """\
name: traced
settings: {checkpoint: {interval: 100ms}, parallelism: 2}
sources:
  numbers: {type: generate, config: {rate: 5000/s, rows: 5000, columns: {n: {sequence: 0}, k: {int: [0, 9]}}}}
transformations:
  newest: {type: deduplicate, inputs: [numbers], config: {key: [n]}}
destinations:
  out: {type: sqlite, inputs: [newest], config: {path: out.db, table: t}}
"""


@contextmanager
def receiver() -> Iterator[tuple[str, list[Span]]]:
    got: list[Span] = []

    def answer(asked: Asked) -> Answer:
        headers = {name.lower(): value for name, value in asked.headers.items()}
        if (asked.path, headers["content-type"]) != ("/v1/traces", "application/x-protobuf"):
            return Answer(status=400)
        request = ExportTraceServiceRequest.FromString(asked.body)
        got.extend(
            s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans
        )
        content = ExportTraceServiceResponse().SerializeToString()
        return Answer(content, 200, {"Content-Type": "application/x-protobuf"})

    with http_server(answer) as server:
        yield server.url, got


@contextmanager
def traced(url: str, watch: Watch, said: list[str]) -> Iterator[None]:
    target = target_of(url, "traces", {})
    assert target is not None
    runtime = current()
    name, run_id = watch.workflow.name, watch.run_id
    with tracing(target, name, run_id, said.append, said.append, Patience()) as tracer:
        runtime.tracer = tracer
        yield


def done(text: str, folder: Path, url: str, said: list[str]) -> RunResult:
    options = RunOptions(folder / "home", observers=[lambda watch: traced(url, watch, said)])
    result = run(load_text(text, base=folder), options)
    assert result.error is None
    return result


def attributes(span: Span) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_batches_checkpoints_and_calls_are_spans_that_belong_together(tmp_path: Path) -> None:
    said: list[str] = []
    with receiver() as (url, spans):
        done(WORKFLOW, tmp_path, url, said)
    assert said == []
    by_id = {span.span_id: span for span in spans}
    names = Counter(span.name for span in spans)
    assert {"read numbers", "process newest", "write out", "call out", "checkpoint", "cut", "store", "commit"} <= names.keys()  # fmt: skip
    # A few a second, of several hundred batches.
    assert 2 <= names["read numbers"] <= 12
    for span in spans:
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        assert attributes(span)["dataflare.workflow"] == "traced"
        if span.parent_span_id:
            above = by_id[span.parent_span_id]
            assert above.trace_id == span.trace_id
            assert above.name == {
                "process newest": "read numbers", "write out": "process newest", "cut": "checkpoint",
                "store": "checkpoint", "commit": "checkpoint",
            }.get(span.name, above.name)  # fmt: skip
    roots = {span.name for span in spans if not span.parent_span_id}
    assert roots == {"read numbers", "checkpoint"}
    # Rows go by key from the source to the step: a link says over what.
    for span in (span for span in spans if span.name == "process newest"):
        assert [link.span_id for link in span.links] == [span.parent_span_id]
        assert attributes(span)["dataflare.exchange"] == "hash"
    calls = {by_id[s.parent_span_id].name for s in spans if s.name == "call out"}
    assert {"write out", "commit"} <= calls


def test_a_collector_that_is_away_costs_a_run_seconds_at_most(tmp_path: Path) -> None:
    said: list[str] = []
    result = done(WORKFLOW, tmp_path, f"http://127.0.0.1:{free_port()}", said)
    assert result.status == "finished"
    assert said


class Recorded:
    """In place of the library's."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, Any]] = []
        self.ended: list[tuple[str, BaseException | None]] = []

    def is_due(self, what: str = "batches") -> bool:
        return True

    def begin(self, name: str, *, parent: Any = None, links: Any = (), lasted_s: float = 0.0, **_: Any) -> Any:  # fmt: skip
        self.begun.append((name, parent))
        end = lambda error=None: self.ended.append((name, error))  # noqa: E731
        return SimpleNamespace(context=name, traceparent=f"of {name}", end=end)


def test_where_a_run_is_not_traced_a_call_is_left_as_it_is() -> None:
    async def call() -> int:
        return 1

    assert called("x", call) is call
    assert traceparent() is None
    assert parents_of([None], lambda _: pytest.fail("looked at")) == ()


def test_a_call_that_fails_is_a_span_with_its_error_and_what_outlives_a_span_is_not_below_it() -> (
    None
):
    recorded = Recorded()
    failure = SystemError_("no", code="E0607")

    async def fails() -> None:
        raise failure

    async def later(seen: list[str | None], go: asyncio.Event) -> None:
        seen.append(traceparent())
        await go.wait()
        seen.append(traceparent())
        with below("too late"):
            pass

    async def work() -> None:
        seen: list[str | None] = []
        go = asyncio.Event()
        with inside(recorded.begin("batch")):
            task = asyncio.ensure_future(later(seen, go))
            await asyncio.sleep(0)
            with pytest.raises(SystemError_):
                await called("call db", fails)()
        go.set()
        await task
        assert seen == ["of batch", None]

    with Runtime().entered() as runtime:
        runtime.tracer = recorded
        asyncio.run(work())
    assert recorded.begun == [("batch", None), ("call db", "batch")]
    assert recorded.ended == [("call db", failure), ("batch", None)]


def test_only_a_few_batches_a_second_are_due() -> None:
    now = 100.0
    tracer = OtelTracer(None, "w", "r", lambda: now)
    due = 0
    for _ in range(10_000):
        now += 0.001
        due += tracer.is_due()
    assert due == pytest.approx(10 * PER_S, abs=2)


def test_the_traces_of_messages_are_those_that_their_headers_name() -> None:
    one, two = f"00-{'a' * 32}-{'b' * 16}-01", f"00-{'c' * 32}-{'d' * 16}-00"
    messages: list[Any] = [
        None, [("traceparent", one.encode())], [("other", b"x"), ("traceparent", two)],
        [("traceparent", one.encode())], [("traceparent", b"00-broken")], [("traceparent", None)],
    ]  # fmt: skip
    with Runtime().entered() as runtime:
        runtime.tracer = Recorded()
        assert parents_of(messages, lambda message: message) == (one, two)


@pytest.mark.parametrize(
    "value", ["00-{0}-{1}-01", "01-{0}-{1}-00", "fe-{0}-{1}-01-what", "01-{0}-{1}-01-"]
)
def test_a_traceparent_of_a_later_version_is_read_as_far_as_it_is_known(value: str) -> None:
    text = value.format("a" * 32, "0" * 15 + "b")
    assert trace_in(text) == trace_in(text.encode()) == text[:55]
    tracer = OtelTracer(TracerProvider().get_tracer("test"), "workflow", "run")
    (link,) = tracer.begin("read", links=[text[:55]])._span.links
    assert (link.context.trace_id, link.context.span_id) == (int("a" * 32, 16), 0xB)


@pytest.mark.parametrize(
    "value",
    [
        f"ff-{'a' * 32}-{'b' * 16}-01", f"ff-{'a' * 32}-{'b' * 16}-01-what", f"00-{'0' * 32}-{'b' * 16}-01",
        f"00-{'a' * 32}-{'0' * 16}-01", f"02-{'a' * 32}-{'0' * 16}-01-what", f"00-{'a' * 32}-{'b' * 16}-01-what",
        f"00-{'a' * 32}-{'b' * 16}-01-", f"01-{'a' * 32}-{'b' * 16}-01what", f"00-{'A' * 32}-{'b' * 16}-01",
    ],
)  # fmt: skip
def test_a_traceparent_that_the_standard_forbids_is_not_taken(value: str) -> None:
    assert trace_in(value) is None


def test_an_error_of_a_span_has_its_code_and_not_its_words() -> None:
    with receiver() as (url, spans):
        target = target_of(url, "traces", {})
        assert target is not None
        with (
            tracing(target, "w", "r", pytest.fail, pytest.fail, Patience()) as tracer,
            pytest.raises(SystemError_),
            inside(tracer.begin("call db")),
        ):
            raise SystemError_("row 'secret data' is refused", code="E0607")
    (span,) = spans
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == "E0607"
    assert "secret" not in str(span)


def test_a_span_may_be_below_one_of_another_process() -> None:
    tracer = OtelTracer(TracerProvider().get_tracer("test"), "workflow", "run")
    above = tracer.begin("above")
    below_it = tracer.begin("below", parent=above.traceparent)
    assert below_it.context.trace_id == above.context.trace_id
    assert below_it._span.parent.span_id == above.context.span_id
    assert traceparent_of(above.context) == traceparent_of(above.traceparent) == above.traceparent
