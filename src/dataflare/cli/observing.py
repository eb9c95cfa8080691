"""Who may look at a run while it lives, as its command line says."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dataflare.cli.usage import bad_usage

if TYPE_CHECKING:
    from dataflare.jobs.watching import Watch
    from dataflare.observability.lineage_target import LineageTarget
    from dataflare.observability.otlp import Patience, Signal, Target


def observers(
    home: Path, metrics: str | None, otlp: str | None, openlineage: str | None = None
) -> list[Callable[[Watch], AbstractContextManager[object]]]:
    """home: where its log is. metrics: where to serve them, `127.0.0.1:9464`. otlp: where to push them; None: where the variables of OpenTelemetry say. openlineage: where to send events of
    OpenLineage, in the same way. Raises a usage error."""
    found: list[Callable[[Watch], AbstractContextManager[object]]] = [
        lambda watch: watch.log.writing(
            home / watch.workflow.name, lambda text: watch.warn([text])
        ),
    ]
    if metrics is not None:
        host, port = _address(metrics)
        found.append(lambda watch: _metrics(watch, host, port))
    target, spans = _target(otlp, "metrics"), _target(otlp, "traces")
    if texts := _not_followed(otlp):
        found.append(lambda watch: _warned(watch, texts))
    if target is not None or spans is not None:
        from dataflare.observability.otlp import Patience

        patience = Patience()
        if target is not None:
            found.append(lambda watch: _otlp(watch, target, patience))
        if spans is not None:
            found.append(lambda watch: _tracing(watch, spans, patience))
    lineage = _lineage_target(openlineage)
    if lineage is not None:
        found.append(lambda watch: _lineage(watch, lineage))
    return found


def _lineage_target(text: str | None) -> LineageTarget | None:
    if text is None and not os.environ.get("OPENLINEAGE_URL"):
        return None
    from dataflare.observability.lineage_target import lineage_target

    try:
        return lineage_target(text)
    except ValueError:
        message = f"--openlineage needs an address such as http://localhost:5000, a file, or console, not '{text}'"
        raise bad_usage(message, "dataflare run") from None


@contextlib.contextmanager
def _lineage(watch: Watch, target: LineageTarget) -> Iterator[None]:
    from dataflare.jobs.telling_lineage import telling_lineage

    with telling_lineage(watch, target):
        watch.log.log("info", "openlineage", f"events go to {target.shown}")
        yield


def _pushes(url: str | None) -> bool:
    """Whether something may be pushed. Looked at first, because a run that pushes nothing need not import what pushes."""
    return url is not None or any(n.startswith("OTEL_EXPORTER_OTLP_") for n in os.environ)


def _not_followed(url: str | None) -> list[str]:
    if not _pushes(url):
        return []
    from dataflare.observability.otlp import variables_not_followed

    return [*variables_not_followed(url)]


def _target(url: str | None, signal: Signal) -> Target | None:
    if not _pushes(url):
        return None
    from dataflare.observability.otlp import target_of

    try:
        return target_of(url, signal)
    except ValueError:
        message = f"--otlp needs an address such as http://localhost:4318 or grpc://localhost:4317, not '{url}'"
        raise bad_usage(message, "dataflare run") from None


@contextlib.contextmanager
def _warned(watch: Watch, texts: list[str]) -> Iterator[None]:
    watch.warn(texts)
    yield


def _lost(watch: Watch, text: str) -> None:
    text = watch.redacted(text)
    watch.warnings.append(text)
    watch.log.log("warning", "otlp", text)


@contextlib.contextmanager
def _otlp(watch: Watch, target: Target, patience: Patience) -> Iterator[None]:
    from dataflare.observability.otlp import pushing

    def said(text: str) -> None:
        watch.log.log("warning", "otlp", text)

    ask, now = lambda: [watch.ask(1.0)], lambda: [watch.view()]
    with pushing(target, ask, now, said, partial(_lost, watch), patience):
        watch.log.log("info", "otlp", f"metrics are pushed to {target.shown}")
        yield


@contextlib.contextmanager
def _tracing(watch: Watch, target: Target, patience: Patience) -> Iterator[None]:
    from dataflare.observability.spans import tracing
    from dataflare.sdk.runtime import current

    def said(text: str) -> None:
        watch.log.log("warning", "otlp", text)

    runtime = current()
    name, run_id = watch.workflow.name, watch.run_id
    with tracing(target, name, run_id, said, partial(_lost, watch), patience) as made:
        watch.log.log("info", "otlp", f"spans are sent to {target.shown}")
        runtime.tracer = made
        try:
            yield
        finally:
            runtime.tracer = None


def _address(text: str) -> tuple[str, int]:
    from dataflare.observability.endpoint import parsed

    try:
        return parsed(text)
    except ValueError:
        message = f"--metrics needs an address such as 127.0.0.1:9464, not '{text}'"
        raise bad_usage(message, "dataflare run") from None


@contextlib.contextmanager
def _metrics(watch: Watch, host: str, port: int) -> Iterator[None]:
    from dataflare.observability.endpoint import serving

    shown = f"[{host}]" if ":" in host else host
    with serving(host, port, lambda: [watch.ask()]) as bound:
        watch.say(f"metrics at http://{shown}:{bound}/metrics")
        yield
