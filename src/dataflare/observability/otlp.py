"""Views of runs, pushed by OTLP to a collector of OpenTelemetry: on a thread of its own, each ten seconds and at the end.

Where to, how and with what comes from a URL, or from the standard variables `OTEL_EXPORTER_OTLP_*`. A collector that is
away harms no run: what cannot be sent is left out, since the next push has all of it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from dataflare.observability.otlp_answers import Refused, read_answers, reading_session
from dataflare.observability.table import METRICS, Metric
from dataflare.observability.times import LATENCY_BOUNDS_S, Histogram
from dataflare.observability.view import RunView
from dataflare.sdk.registry import missing_library

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.resources import Resource

EVERY_S, _LEAST_EVERY_S = 10.0, 0.1
"""Between two pushes; and the least that the variables can set it to: a collector is not flooded."""
_LAST_S, _LEAST_S, _SHUT_S = 2.0, 0.5, 0.2
"""How long the end of a run waits for its last pushes; at least for each of them; for one that was given up."""
_SCOPE = "dataflare"
_PORT_GRPC = 4317

_NOISE = "Exporter already shutdown"
"""What the library says of one that was given up."""

Signal = Literal["metrics", "traces"]


PROTOCOLS = ("http/protobuf", "grpc")


class Target(Struct, frozen=True):
    """endpoint: None: as the variables say. protocol: one of `PROTOCOLS`."""

    endpoint: str | None
    protocol: str
    every_s: float = EVERY_S

    @property
    def shown(self) -> str:
        return self.endpoint or "the collector"


def target_of(
    url: str | None, signal: Signal = "metrics", environ: Mapping[str, str] = os.environ
) -> Target | None:
    """url: of the command line: `http://host:4318`, or `grpc://host:4317`; it goes before the variables, except where they name
    `none` for the signal. None: nothing is to be pushed. Raises ValueError for a URL of another kind."""
    exporters = _exporters(signal, environ)
    every_s, _ = _interval(environ)
    if url is not None:
        made = Target(*_of_url(url, signal), every_s)
        return made if exporters != {"none"} else None
    if "otlp" not in exporters or not _has_endpoint(signal, environ):
        return None
    _, protocol = _protocol(signal, environ)
    return Target(None, protocol if protocol in PROTOCOLS else PROTOCOLS[0], every_s)


def variables_not_followed(
    url: str | None, environ: Mapping[str, str] = os.environ
) -> Iterator[str]:
    """Of the variables that matter, what is done instead of what they say. url: as that of `target_of`."""
    pushed = False
    signals: tuple[Signal, ...] = ("metrics", "traces")
    for signal in signals:
        if url is None and not _has_endpoint(signal, environ):
            continue
        is_pushed = target_of(url, signal, environ) is not None
        others = sorted(_exporters(signal, environ) - {"otlp", "none"})
        if others:
            yield (
                f"OTEL_{signal.upper()}_EXPORTER names '{', '.join(others)}', which is not supported: {signal} are "
                + ("pushed by OTLP" if is_pushed else "not pushed (otlp is supported)")
            )
        name, protocol = _protocol(signal, environ)
        if url is None and is_pushed and protocol not in PROTOCOLS:
            yield (
                f"{name} names '{protocol}', which is not supported: {PROTOCOLS[0]} is used "
                "(grpc is the other one)"
            )
        pushed = pushed or (signal == "metrics" and is_pushed)
    every_s, is_followed = _interval(environ)
    if pushed and not is_followed:
        text = environ["OTEL_METRIC_EXPORT_INTERVAL"]
        yield (
            f"OTEL_METRIC_EXPORT_INTERVAL is '{text}', not milliseconds from {_LEAST_EVERY_S * 1000:g} on: metrics are pushed "
            f"each {every_s:g} s"
        )


def _has_endpoint(signal: Signal, environ: Mapping[str, str]) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    own = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    return bool(own or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))


def _exporters(signal: Signal, environ: Mapping[str, str]) -> set[str]:
    """The variable is a list."""
    named = environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").split(",")
    return {name.strip() for name in named if name.strip()} or {"otlp"}


def _protocol(signal: Signal, environ: Mapping[str, str]) -> tuple[str, str]:
    """The variable that names it, and the name."""
    both = "OTEL_EXPORTER_OTLP_PROTOCOL"
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL"
    return (own, environ[own]) if environ.get(own) else (both, environ.get(both) or PROTOCOLS[0])


def _interval(environ: Mapping[str, str]) -> tuple[float, bool]:
    """In seconds, and whether it is as the variable says."""
    try:
        every_s = float(environ.get("OTEL_METRIC_EXPORT_INTERVAL") or EVERY_S * 1000) / 1000
    except ValueError:
        return EVERY_S, False
    if math.isnan(every_s):
        return EVERY_S, False
    bounded_s = min(max(every_s, _LEAST_EVERY_S), threading.TIMEOUT_MAX)
    return bounded_s, bounded_s == every_s


def _of_url(url: str, signal: Signal) -> tuple[str, str]:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    port = parts.port  # raises for one that cannot be
    if not parts.hostname:
        raise ValueError(url)
    if parts.scheme in ("grpc", "grpcs"):
        secure = "https" if parts.scheme == "grpcs" else "http"
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return f"{secure}://{host}:{port or _PORT_GRPC}", "grpc"
    if parts.scheme not in ("http", "https"):
        raise ValueError(url)
    path = parts.path.rstrip("/")
    whole = path if path.endswith(f"/v1/{signal}") else f"{path}/v1/{signal}"
    return parts._replace(path=whole).geturl(), "http/protobuf"


class Patience:
    """How long the end of a run waits for all that it still has to send."""

    def __init__(self) -> None:
        self._ends_at: float | None = None

    def left_s(self) -> float:
        """Since the first call."""
        now = time.monotonic()
        if self._ends_at is None:
            self._ends_at = now + _LAST_S
        return max(_LEAST_S, self._ends_at - now)


@contextlib.contextmanager
def pushing(
    target: Target,
    ask: Callable[[], Sequence[RunView]],
    now: Callable[[], Sequence[RunView]],
    said: Callable[[str], None],
    lost: Callable[[str], None],
    patience: Patience,
) -> Iterator[None]:
    """Push until the end of the `with`. ask: as the endpoint's; now: the same, called at the end by the caller. said: told on
    another thread what the library complains of, each kind once. lost: told at the end that the last push failed, and what the
    collector has refused. Raises ConfigError (E0402) where the library is not installed."""
    refused = Refused("metrics", said)
    try:
        exporter = _metric_exporter(target, refused)
        resource = resource_of()
    except ModuleNotFoundError as error:
        raise missing_library("--otlp", error) from error
    with told_library_errors(said):
        pusher = _Pusher(exporter, resource, ask, target.every_s)
        thread = threading.Thread(target=pusher.work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            pusher.last = now()
            pusher.ends.set()
            thread.join(patience.left_s())
            exporter.shutdown(timeout_millis=0)
            thread.join(_SHUT_S)
            if pusher.failed:
                lost(f"metrics were not delivered to {target.shown} at the end of the run")
            if (text := refused.summary()) is not None:
                lost(text)


class _Pusher:
    def __init__(
        self,
        exporter: Any,
        resource: Resource,
        ask: Callable[[], Sequence[RunView]],
        every_s: float,
    ) -> None:
        self._exporter, self._resource, self._ask, self._every_s = exporter, resource, ask, every_s
        self.ends = threading.Event()
        self.last: Sequence[RunView] = ()
        self.failed = True

    def work(self) -> None:
        from opentelemetry.sdk.metrics.export import MetricExportResult

        is_last = False
        while not is_last:
            is_last = self.ends.wait(self._every_s)
            self.failed = True
            with contextlib.suppress(TimeoutError):  # the run does not answer now
                runs = self.last if is_last else self._ask()
                sent = self._exporter.export(metrics_data(runs, self._resource))
                self.failed = sent is not MetricExportResult.SUCCESS


def _metric_exporter(target: Target, refused: Refused) -> Any:
    if target.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

        return read_answers(OTLPMetricExporter(endpoint=target.endpoint), refused)
    from opentelemetry.exporter.otlp.proto.http import metric_exporter

    session = reading_session("metrics", refused)
    return metric_exporter.OTLPMetricExporter(endpoint=target.endpoint, session=session)


def resource_of() -> Resource:
    """Who sends: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` go before what is said here."""
    from importlib.metadata import version

    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    own = {"service.name": "dataflare", "service.version": version("dataflare")}
    own |= {"process.pid": str(os.getpid())}
    told = OTELResourceDetector().detect()
    return Resource.create({**own, **told.attributes})


def metrics_data(runs: Sequence[RunView], resource: Resource) -> MetricsData:
    """All metrics of these runs, by their names in OpenTelemetry. Counts and histograms are since the run began."""
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    metrics = [made for metric in METRICS if (made := _metric(metric, runs)) is not None]
    scope = ScopeMetrics(InstrumentationScope(_SCOPE), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _metric(metric: Metric, runs: Sequence[RunView]) -> Any:
    from opentelemetry.sdk.metrics import export

    points: list[Any] = []
    for run in runs:
        start, now = round(run.started * 1e9), round(run.at * 1e9)
        for values, value in metric.read(run):
            labels = {"workflow": run.workflow, **dict(zip(metric.labels, values, strict=True))}
            if isinstance(value, Histogram):
                unknown: Any = None  # the least and the greatest of them
                points.append(
                    export.HistogramDataPoint(
                        labels,
                        start,
                        now,
                        value.count,
                        value.sum,
                        list(value.counts),
                        LATENCY_BOUNDS_S,
                        unknown,
                        unknown,
                    )
                )
            else:
                points.append(export.NumberDataPoint(labels, start, now, value))
    if not points:
        return None
    cumulative = export.AggregationTemporality.CUMULATIVE
    data: Any
    if metric.kind == "histogram":
        data = export.Histogram(points, cumulative)
    elif metric.kind == "counter":
        data = export.Sum(points, cumulative, is_monotonic=True)
    else:
        data = export.Gauge(points)
    return export.Metric(metric.otel, metric.help, metric.unit, data)


@contextlib.contextmanager
def told_library_errors(said: Callable[[str], None]) -> Iterator[None]:
    """What the library has to say goes there, and not to standard error."""
    logger = logging.getLogger("opentelemetry")
    handler = _Handler(said)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


class _Handler(logging.Handler):
    """Says each text once."""

    def __init__(self, said: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._said, self._seen = said, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())[:300]
        if record.msg not in self._seen and not text.startswith(_NOISE):
            self._seen.add(record.msg)
            self._said(f"OpenTelemetry: {text}")
