"""What a collector answers to a push: it may be received, and a part of it refused (`partial_success` of OTLP)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from requests import Response, Session

    from dataflare.observability.otlp import Signal

_TEXT_MAX = 300


class Refused:
    """Counts what a collector has refused of one signal. said: told of the first refusal, on the thread of the exporter."""

    def __init__(self, signal: Signal, said: Callable[[str], None]) -> None:
        self._what = "data points of metrics" if signal == "metrics" else "spans"
        self._signal, self._said = signal, said
        self._lock = threading.Lock()
        self._count, self._reason = 0, ""
        self._told: set[str] = set()

    def take(self, answer: Any) -> None:
        """answer: a message `ExportMetricsServiceResponse` or `ExportTraceServiceResponse`."""
        partial = answer.partial_success
        if self._signal == "metrics":
            count = partial.rejected_data_points
        else:
            count = partial.rejected_spans
        reason = " ".join(partial.error_message.split())[:_TEXT_MAX]
        with self._lock:
            if count > 0:
                self._count, self._reason = self._count + count, reason or self._reason
            is_new = reason not in self._told and (count > 0 or reason != "")
            self._told.add(reason)
        if is_new:
            self._said(_because(f"the collector has refused {count:,} {self._what}", reason))

    def summary(self) -> str | None:
        """For the end of a run. None: all that came there was taken."""
        with self._lock:
            if not self._count:
                return None
            text = f"the collector has refused {self._count:,} {self._what} of this run"
            return _because(text, self._reason)


def _because(text: str, reason: str) -> str:
    return f"{text}: {reason}" if reason else text


def reading_session(signal: Signal, refused: Refused) -> Session | None:
    """A session for an HTTP exporter that looks at each answer. None where a variable names a session of the user, which the library
    then makes."""
    from requests import Session

    if any(n.startswith("OTEL_PYTHON_") and n.endswith("_CREDENTIAL_PROVIDER") for n in os.environ):
        return None
    session = Session()
    answer_of = _answer_class(signal)

    def look(response: Response, *_: Any, **__: Any) -> None:
        from google.protobuf.message import DecodeError

        if response.ok:
            try:
                answer = answer_of.FromString(response.content)
            except DecodeError:  # a proxy answered in place of the collector
                return
            refused.take(answer)

    session.hooks["response"].append(look)
    return session


def _answer_class(signal: Signal) -> Any:
    if signal == "metrics":
        from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

        return metrics_service_pb2.ExportMetricsServiceResponse
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

    return trace_service_pb2.ExportTraceServiceResponse


def read_answers(exporter: Any, refused: Refused) -> Any:
    """The gRPC exporter, which gives its answers there. The library has no place for this: it makes its stub again when it connects
    again, so the maker of stubs is replaced too."""
    stub = exporter._stub
    exporter._stub = lambda channel: _Reading(stub(channel), refused)
    exporter._client = _Reading(exporter._client, refused)
    return exporter


class _Reading:
    def __init__(self, stub: Any, refused: Refused) -> None:
        self._stub, self._refused = stub, refused

    def Export(self, *args: Any, **options: Any) -> Any:  # noqa: N802
        answer = self._stub.Export(*args, **options)
        self._refused.take(answer)
        return answer
