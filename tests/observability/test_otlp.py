"""Metrics pushed by OTLP, over HTTP and gRPC, to receivers that read them by the official protocol."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as service
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_service
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from servers.process import free_port
from servers.web import Answer, Asked, http_server

from dataflare.observability import logs, otlp
from dataflare.observability.otlp import Patience, Target, target_of, variables_not_followed
from dataflare.observability.table import METRICS

WORKFLOW = """\
name: pushed
settings: {checkpoint: {interval: 50ms}}
sources:
  numbers: {type: generate, config: {rate: 2000/s, rows: 1000, columns: {n: {sequence: 0}}}}
destinations:
  out: {type: sqlite, inputs: [numbers], config: {path: out.db, table: t}}
"""


def run(folder: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "w.yaml").write_text(WORKFLOW)
    command = [sys.executable, "-m", "dataflare", "run", "w.yaml", *args]
    import os

    environ = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    environ |= {"OTEL_TRACES_EXPORTER": "none", **environment}
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
    )


def said(folder: Path) -> list[str]:
    home = folder / ".dataflare" / "pushed"
    run_id = logs.newest(home)
    assert run_id is not None
    return [line["message"] for line in logs.lines(home, run_id) if line["component"] == "otlp"]


@contextmanager
def http_receiver(status: int = 200) -> Iterator[tuple[str, list[ExportMetricsServiceRequest], list[Asked]]]:  # fmt: skip
    got: list[ExportMetricsServiceRequest] = []

    def answer(asked: Asked) -> Answer:
        headers = {name.lower(): value for name, value in asked.headers.items()}
        if asked.method != "POST" or asked.path != "/v1/metrics":
            return Answer(status=404)
        if headers.get("content-type") != "application/x-protobuf":
            return Answer(status=415)
        body = (
            gzip.decompress(asked.body) if headers.get("content-encoding") == "gzip" else asked.body
        )
        if status == 200:
            got.append(ExportMetricsServiceRequest.FromString(body))
        content = ExportMetricsServiceResponse().SerializeToString()
        return Answer(content, status, {"Content-Type": "application/x-protobuf"})

    with http_server(answer) as server:
        yield server.url, got, server.asked


@contextmanager
def grpc_receiver() -> Iterator[tuple[int, list[ExportMetricsServiceRequest]]]:
    got: list[ExportMetricsServiceRequest] = []

    class Receiver(service.MetricsServiceServicer):
        def Export(self, request, context):  # noqa: N802
            got.append(request)
            return ExportMetricsServiceResponse()

    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        service.add_MetricsServiceServicer_to_server(Receiver(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port, got
        finally:
            server.stop(None).wait()


def points(
    request: ExportMetricsServiceRequest,
) -> dict[str, dict[tuple[tuple[str, str], ...], Any]]:
    """By metric, by labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], Any]] = {}
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                data = getattr(metric, metric.WhichOneof("data"))
                for point in data.data_points:
                    labels = tuple(sorted((a.key, a.value.string_value) for a in point.attributes))
                    assert labels not in found.setdefault(metric.name, {}), "a point twice"
                    found[metric.name][labels] = point
    return found


def attributes(request: ExportMetricsServiceRequest) -> dict[str, str]:
    resource = request.resource_metrics[0].resource
    return {each.key: each.value.string_value for each in resource.attributes}


def check(request: ExportMetricsServiceRequest) -> None:
    """What the last push of the run says."""
    found = points(request)
    assert found.keys() <= {metric.otel for metric in METRICS}
    out = (("direction", "out"), ("step", "out"), ("workflow", "pushed"))
    assert found["dataflare.rows"][out].as_int == 1000
    latency = found["dataflare.latency"][("step", "out"), ("workflow", "pushed")]
    assert latency.count == 1000 == sum(latency.bucket_counts)
    assert len(latency.bucket_counts) == len(latency.explicit_bounds) + 1
    assert 0 < latency.start_time_unix_nano < latency.time_unix_nano
    assert not latency.HasField("min"), "it is not known"
    kinds = {metric.name: metric for metric in request.resource_metrics[0].scope_metrics[0].metrics}
    assert kinds["dataflare.rows"].sum.is_monotonic
    assert kinds["dataflare.rows"].sum.aggregation_temporality == 2, "cumulative"
    assert kinds["dataflare.rows"].unit == "{row}"
    assert kinds["process.memory.usage"].gauge.data_points


def test_metrics_are_pushed_over_http(tmp_path: Path) -> None:
    with http_receiver() as (url, got, _):
        done = run(
            tmp_path, "--otlp", url, OTEL_METRIC_EXPORT_INTERVAL="100", OTEL_SERVICE_NAME="mine"
        )
    assert done.returncode == 0, done.stderr
    assert len(got) > 2
    check(got[-1])
    assert attributes(got[-1])["service.name"] == "mine"
    assert said(tmp_path) == [f"metrics are pushed to {url}/v1/metrics"]


def test_metrics_are_pushed_over_grpc(tmp_path: Path) -> None:
    with grpc_receiver() as (port, got):
        done = run(tmp_path, "--otlp", f"grpc://127.0.0.1:{port}")
    assert done.returncode == 0, done.stderr
    check(got[-1])
    assert attributes(got[-1])["service.name"] == "dataflare"


def test_the_standard_variables_hold(tmp_path: Path) -> None:
    with http_receiver() as (url, got, asked):
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-token=abc",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
        }
        assert run(tmp_path, **variables).returncode == 0
        headers = {name.lower(): value for name, value in asked[-1].headers.items()}
        assert (headers["x-token"], headers["content-encoding"]) == ("abc", "gzip")
        check(got[-1])
        assert attributes(got[-1])["deployment.environment"] == "test"
        number = len(asked)
        assert run(tmp_path, **variables, OTEL_METRICS_EXPORTER="none").returncode == 0
        assert len(asked) == number


def test_a_collector_that_is_away_costs_a_run_seconds_at_most_and_is_in_its_log(
    tmp_path: Path,
) -> None:
    done = run(tmp_path, "--otlp", f"http://127.0.0.1:{free_port()}", "--json")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "OpenTelemetry" not in done.stderr
    lines = said(tmp_path)
    assert sum("metrics were not delivered" in line for line in lines) == 1
    assert not [line for line in lines if "already shutdown" in line]
    warnings = json.loads(done.stdout)["warnings"]
    assert sum("metrics were not delivered to http://127.0.0.1" in each for each in warnings) == 1


def test_a_run_waits_for_all_that_it_sends_together() -> None:
    patience = Patience()
    assert otlp._LEAST_S < patience.left_s() <= otlp._LAST_S
    patience._ends_at = 0.0
    assert patience.left_s() == otlp._LEAST_S


def test_where_it_goes() -> None:
    def target(url: str | None, **environ: str) -> Target | None:
        return target_of(url, "metrics", environ)

    assert target(None) is None
    assert target("http://h:4318") == Target("http://h:4318/v1/metrics", "http/protobuf")
    assert target("https://h/otlp/") == Target("https://h/otlp/v1/metrics", "http/protobuf")
    assert target("https://h/v1/metrics") == Target("https://h/v1/metrics", "http/protobuf")
    assert target("grpcs://h") == Target("https://h:4317", "grpc")
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert target(None, **variables) == Target(None, "grpc")
    assert target(None, **variables, OTEL_SDK_DISABLED="true") is None
    assert target("grpc://[::1]:99") == Target("http://[::1]:99", "grpc")
    assert target("grpcs://[::1]") == Target("https://[::1]:4317", "grpc")
    for wrong in ("h:4318", "ftp://h", "http://", "http://h:99999", "grpc://h:x"):
        with pytest.raises(ValueError, match=wrong if "h:" not in wrong[5:] else "[Pp]ort"):
            target(wrong)


LISTED = {"OTEL_METRICS_EXPORTER": "prometheus, otlp", "OTEL_TRACES_EXPORTER": "console"}


def test_the_exporters_are_a_list_and_the_command_line_goes_before_them() -> None:
    environ = {**LISTED, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h"}
    assert target_of(None, "metrics", environ) == Target(None, "http/protobuf")
    assert target_of(None, "traces", environ) is None
    assert [*variables_not_followed(None, environ)] == [
        "OTEL_METRICS_EXPORTER names 'prometheus', which is not supported: metrics are pushed by OTLP",
        "OTEL_TRACES_EXPORTER names 'console', which is not supported: traces are not pushed (otlp is supported)",
    ]
    for signal in ("metrics", "traces"):
        assert target_of("http://h", signal, LISTED) is not None
        off = {"OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "none"}
        assert target_of("http://h", signal, off) is None
    assert "traces are pushed by OTLP" in [*variables_not_followed("http://h", LISTED)][1]
    assert [*variables_not_followed(None, LISTED)] == [], "nothing is pushed"


@pytest.mark.parametrize(
    ("text", "every_s"),
    [("250", 0.25), ("100", 0.1), ("0", 0.1), ("-1", 0.1), ("99.9", 0.1), ("10s", 10.0), ("nan", 10.0), ("", 10.0)],
)  # fmt: skip
def test_metrics_are_not_pushed_without_a_pause(text: str, every_s: float) -> None:
    environ = {"OTEL_METRIC_EXPORT_INTERVAL": text}
    target = target_of("http://h", "metrics", environ)
    assert target is not None
    assert target.every_s == every_s
    told = [*variables_not_followed("http://h", environ)]
    assert len(told) == (text not in ("250", "100", ""))
    assert all(f"is '{text}', not milliseconds from 100 on" in each for each in told)
    assert [*variables_not_followed(None, environ)] == []


def test_an_interval_without_an_end_is_one_that_threads_can_wait_for() -> None:
    target = target_of("http://h", "metrics", {"OTEL_METRIC_EXPORT_INTERVAL": "inf"})
    assert target is not None
    assert target.every_s == threading.TIMEOUT_MAX


def refusing_metrics() -> ExportMetricsServiceResponse:
    answer = ExportMetricsServiceResponse()
    answer.partial_success.rejected_data_points = 7
    answer.partial_success.error_message = "too many series"
    return answer


def refusing_spans() -> ExportTraceServiceResponse:
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 3
    return answer


@contextmanager
def refusing_http() -> Iterator[str]:
    def answer(asked: Asked) -> Answer:
        made = refusing_spans() if asked.path == "/v1/traces" else refusing_metrics()
        return Answer(made.SerializeToString(), 200, {"Content-Type": "application/x-protobuf"})

    with http_server(answer) as server:
        yield server.url


@contextmanager
def refusing_grpc() -> Iterator[str]:
    class Metrics(service.MetricsServiceServicer):
        def Export(self, request, context):  # noqa: N802
            return refusing_metrics()

    class Traces(trace_service.TraceServiceServicer):
        def Export(self, request, context):  # noqa: N802
            return refusing_spans()

    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        service.add_MetricsServiceServicer_to_server(Metrics(), server)
        trace_service.add_TraceServiceServicer_to_server(Traces(), server)
        port = server.add_insecure_port("[::1]:0")
        server.start()
        try:
            yield f"grpc://[::1]:{port}"
        finally:
            server.stop(None).wait()


@pytest.mark.parametrize("collector", [refusing_http, refusing_grpc])
def test_what_a_collector_refuses_is_a_warning(
    collector: Callable[[], AbstractContextManager[str]], tmp_path: Path
) -> None:
    with collector() as url:
        done = run(tmp_path, "--otlp", url, "--json", **LISTED)
    assert done.returncode == 0, done.stderr
    warnings = json.loads(done.stdout)["warnings"]
    spans, metrics = sorted((each for each in warnings if "refused" in each), key=len)
    assert re.fullmatch(
        r"the collector has refused \d+ data points of metrics of this run: too many series",
        metrics,
    )
    assert re.fullmatch(r"the collector has refused \d+ spans of this run", spans)
    assert sum("_EXPORTER names" in each for each in warnings) == 2


def test_spans_that_a_collector_does_not_take_are_a_warning(tmp_path: Path) -> None:
    with http_server(lambda asked: Answer(status=400)) as server:
        done = run(tmp_path, "--otlp", server.url, "--json", OTEL_TRACES_EXPORTER="otlp")
    warnings = json.loads(done.stdout)["warnings"]
    assert [each for each in warnings if re.match(r"[\d,]+ spans were not delivered to http", each)]


def test_a_protocol_that_is_not_supported_is_a_warning(tmp_path: Path) -> None:
    with http_receiver() as (url, requests, _):
        named = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}
        done = run(tmp_path, **named)
    assert done.returncode == 0, done
    assert "'http/json', which is not supported: http/protobuf is used" in done.stderr
    assert requests


def test_a_wrong_address_is_wrong_usage(tmp_path: Path) -> None:
    done = run(tmp_path, "--otlp", "localhost:4318")
    assert done.returncode == 2
    assert "--otlp needs an address" in done.stderr
