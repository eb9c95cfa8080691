"""Spans and metrics arrive behind a real OpenTelemetry Collector as they were sent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from servers.otelcol import Collector
from servers.services import running
from servers.web import Answer, Asked, HttpServer, http_server

WORKFLOW = """\
name: seen
settings: {checkpoint: {interval: 100ms}, parallelism: 2}
sources:
  numbers: {type: generate, config: {rate: 5000/s, rows: 5000, columns: {n: {sequence: 0}}}}
transformations:
  newest: {type: deduplicate, inputs: [numbers], config: {key: [n]}}
destinations:
  out: {type: sqlite, inputs: [newest], config: {path: out.db, table: t}}
"""


@pytest.fixture(scope="module")
def behind() -> Iterator[HttpServer]:
    def answer(asked: Asked) -> Answer:
        made = (
            ExportTraceServiceResponse
            if asked.path == "/v1/traces"
            else ExportMetricsServiceResponse
        )
        return Answer(made().SerializeToString(), 200, {"Content-Type": "application/x-protobuf"})

    with http_server(answer) as server:
        yield server


@pytest.fixture(scope="module")
def collector(behind: HttpServer) -> Iterator[Collector]:
    yield from running("otelcol", to=behind.url)


def values(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


@pytest.mark.rotates(2)
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_what_a_run_sends_arrives_behind_the_collector(
    protocol: str, collector: Collector, behind: HttpServer, tmp_path: Path
) -> None:
    behind.asked.clear()
    (tmp_path / "seen.yaml").write_text(WORKFLOW)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    environment["OTEL_SERVICE_NAME"] = "shop"
    done = subprocess.run(
        [sys.executable, "-m", "dataflare", "run", "seen.yaml", "--otlp", getattr(collector, protocol)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "deliver" not in done.stderr

    traces = [
        resource
        for asked in behind.asked
        if asked.path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(asked.body).resource_spans
    ]
    assert {values(each.resource.attributes)["service.name"] for each in traces} == {"shop"}
    spans = [span for each in traces for scope in each.scope_spans for span in scope.spans]
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans), "none came twice"
    names = Counter(span.name for span in spans)
    assert {"read numbers", "process newest", "write out", "call out", "checkpoint", "commit"} <= names.keys()  # fmt: skip
    for span in spans:
        assert values(span.attributes)["dataflare.workflow"] == "seen"
        if span.parent_span_id:
            assert by_id[span.parent_span_id].trace_id == span.trace_id
    linked = [span for span in spans if span.name == "process newest"]
    assert linked
    for span in linked:
        assert [link.span_id for link in span.links] == [span.parent_span_id]
        assert [link.trace_id for link in span.links] == [span.trace_id]

    metrics = [
        metric
        for asked in behind.asked
        if asked.path == "/v1/metrics"
        for resource in ExportMetricsServiceRequest.FromString(asked.body).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]
    rows = [
        (values(point.attributes), point.as_int or round(point.as_double))
        for metric in metrics
        if metric.name == "dataflare.rows"
        for point in metric.sum.data_points
    ]
    written = [
        count for told, count in rows
        if told["step"] == "out" and told["direction"] == "in"
    ]  # fmt: skip
    assert max(written) == 5000
    (latency,) = [
        point
        for metric in metrics[::-1]
        if metric.name == "dataflare.latency"
        for point in metric.histogram.data_points
    ][-1:]
    assert latency.count == 5000
