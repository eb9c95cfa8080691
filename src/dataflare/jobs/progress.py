"""The progress that a run reports while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct

from dataflare.engine.attempt import Attempt
from dataflare.engine.metrics import JobMetrics, rfc3339


class StepProgress(Struct, frozen=True):
    kind: str
    rows_in: int | None
    rows_out: int | None
    bytes_in: int
    errors: int
    done: bool


class Progress(Struct, frozen=True):
    """rows_per_s: the current rate of all sources. backlog_rows: rows in the channels between tasks.
    watermark: the least event time that some step still expects, as RFC 3339, where it is known. kept_bytes: how much of
    their logs servers keep for the sources, where that is known."""

    elapsed_s: float
    steps: dict[str, StepProgress]
    rows_per_s: float
    checkpoints: int
    last_checkpoint_s: float | None
    backlog_rows: int
    message: str | None = None
    watermark: str | None = None
    kept_bytes: int | None = None


class Reporter:
    """Calls a listener a few times a second, and once at the end."""

    def __init__(self, metrics: JobMetrics, listener: Callable[[Progress], None] | None) -> None:
        self.metrics, self.listener = metrics, listener
        self.started = time.monotonic()
        self._seen: tuple[float, int] = (self.started, 0)
        self._rate = 0.0

    def report(self, attempt: Attempt | None, message: str | None = None) -> None:
        """message: a notice, such as the checkpoint that was resumed."""
        if self.listener is None:
            return
        stats = self.metrics.checkpoints
        now, rows = time.monotonic(), self._source_rows()
        before, rows_before = self._seen
        if now - before > 0.2:
            self._rate = (rows - rows_before) / (now - before)
            self._seen = (now, rows)
        kept = [m.kept_bytes for m in self.metrics.steps.values() if m.kept_bytes is not None]
        marks = [m.watermark_us for m in self.metrics.steps.values() if m.watermark_us is not None]
        self.listener(
            Progress(
                elapsed_s=now - self.started,
                steps={
                    name: StepProgress(m.kind, m.rows_in, m.rows_out, m.bytes_out, m.errors, m.done)
                    for name, m in self.metrics.steps.items()
                },
                rows_per_s=self._rate,
                checkpoints=stats.completed,
                last_checkpoint_s=stats.last_s,
                backlog_rows=attempt.backlog_rows if attempt else 0,
                message=message,
                watermark=rfc3339(min(marks)) if marks else None,
                kept_bytes=sum(kept) if kept else None,
            )
        )

    def _source_rows(self) -> int:
        steps = self.metrics.steps
        # The rows of streams that one reader gives are counted for their source too.
        return sum(
            m.rows_out or 0
            for name, m in steps.items()
            if m.kind == "source" and ("." not in name or name.partition(".")[0] not in steps)
        )
