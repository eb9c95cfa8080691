"""Spans by the library of OpenTelemetry, exported over OTLP. A few batches a second are traced, and each checkpoint."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

from dataflare.observability.otlp import _SHUT_S, Patience, Target, resource_of, told_library_errors
from dataflare.observability.otlp_answers import Refused, read_answers, reading_session
from dataflare.sdk.registry import missing_library
from dataflare.sdk.tracing import NONE, Attributes, Tracer, traceparent_of

PER_S = 5.0


class _Span:
    def __init__(self, span: Any) -> None:
        self._span = span

    @property
    def context(self) -> Any:
        return self._span.get_span_context()

    @property
    def traceparent(self) -> str:
        return traceparent_of(self.context)

    def end(self, error: BaseException | None = None) -> None:
        from opentelemetry.trace import Status, StatusCode

        if error is not None:
            # Messages of systems may quote data: what kind of error it is must do.
            code = getattr(error, "code", None) or type(error).__name__
            self._span.set_status(Status(StatusCode.ERROR, str(code)))
            self._span.set_attribute("error.type", str(code))
        self._span.end()


class OtelTracer:
    """tracer: of the library. workflow: on each span."""

    def __init__(
        self, tracer: Any, workflow: str, run_id: str, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._tracer, self._now = tracer, now
        self._always = {"dataflare.workflow": workflow, "dataflare.run": run_id}
        self._next_s: dict[str, float] = {}

    def is_due(self, what: str = "batches") -> bool:
        now = self._now()
        if now < self._next_s.get(what, 0.0):
            return False
        self._next_s[what] = now + 1 / PER_S
        return True

    def begin(
        self,
        name: str,
        *,
        parent: Any = None,
        links: Iterable[Any] = (),
        lasted_s: float = 0.0,
        attributes: Attributes = NONE,
    ) -> _Span:
        from opentelemetry import trace
        from opentelemetry.context import Context

        above = None
        if parent is not None:
            above = trace.set_span_in_context(trace.NonRecordingSpan(_context(parent)))
        given = {f"dataflare.{key}": value for key, value in attributes.items()}
        span = self._tracer.start_span(
            name,
            context=above or Context(),
            links=[trace.Link(_context(link)) for link in links],
            start_time=time.time_ns() - round(lasted_s * 1e9),
            attributes={**self._always, **given},
        )
        return _Span(span)


def _context(link: Any) -> Any:
    """link: a context, or a text of `traceparent`."""
    from opentelemetry import trace

    if not isinstance(link, str):
        return link
    _, trace_id, span_id, flags = link.split("-")
    return trace.SpanContext(
        int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(int(flags, 16))
    )


@contextlib.contextmanager
def tracing(
    target: Target,
    workflow: str,
    run_id: str,
    said: Callable[[str], None],
    lost: Callable[[str], None],
    patience: Patience,
) -> Iterator[Tracer]:
    """A tracer until the end of the `with`. said, lost: as those of `pushing`. Raises ConfigError (E0402) where the library is not
    installed."""
    try:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        refused = Refused("traces", said)
        exporter = _Counted(_exporter(target, refused))
    except ModuleNotFoundError as error:
        raise missing_library("--otlp", error) from error
    with told_library_errors(said):
        provider = TracerProvider(resource=resource_of(), shutdown_on_exit=False)
        provider.add_span_processor(
            BatchSpanProcessor(cast("Any", exporter), schedule_delay_millis=1000)
        )
        try:
            yield OtelTracer(provider.get_tracer("dataflare"), workflow, run_id)
        finally:
            # A collector that is away must not hold the end of the run up for long.
            ending = threading.Thread(target=provider.shutdown, daemon=True)
            ending.start()
            ending.join(patience.left_s())
            if ending.is_alive():
                lost(f"spans were not delivered to {target.shown} at the end of the run")
                exporter.shutdown()
                ending.join(_SHUT_S)
            elif exporter.failed:
                lost(f"{exporter.failed:,} spans were not delivered to {target.shown}")
            if (text := refused.summary()) is not None:
                lost(text)


class _Counted:
    """An exporter of spans. failed: how many it could not deliver; they are not sent again."""

    def __init__(self, exporter: Any) -> None:
        self._exporter, self.failed = exporter, 0

    def export(self, spans: Sequence[Any]) -> Any:
        from opentelemetry.sdk.trace.export import SpanExportResult

        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self.failed += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> Any:
        return self._exporter.force_flush(timeout_millis)


def _exporter(target: Target, refused: Refused) -> Any:
    if target.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return read_answers(OTLPSpanExporter(endpoint=target.endpoint), refused)
    from opentelemetry.exporter.otlp.proto.http import trace_exporter

    session = reading_session("traces", refused)
    return trace_exporter.OTLPSpanExporter(endpoint=target.endpoint, session=session)
