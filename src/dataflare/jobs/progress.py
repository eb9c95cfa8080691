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
    watermark: the least event time that some step still expects, as RFC 3339, where it is known."""

    elapsed_s: float
    steps: dict[str, StepProgress]
    rows_per_s: float
    checkpoints: int
    last_checkpoint_s: float | None
    backlog_rows: int
    message: str | None = None
    watermark: str | None = None


class Reporter:
    """Calls a listener a few times a second, and once at the end."""

    def __init__(self, metrics: JobMetrics, listener: Callable[[Progress], None] | None) -> None:
        self.metrics, self.listener = metrics, listener
        self.started = time.monotonic()
        self._seen: tuple[float, int] = (self.started, 0)
        self._rate = 0.0
        self.checkpoints = 0

    def say(self, message: str) -> None:
        """Report a notice, such as the checkpoint that was resumed."""
        self.report(None, message)

    def report(self, attempt: Attempt | None, message: str | None = None) -> None:
        if self.listener is None:
            return
        stats = attempt.coordinator.stats if attempt and attempt.coordinator else None
        now, rows = time.monotonic(), self._source_rows()
        before, rows_before = self._seen
        if now - before > 0.2:
            self._rate = (rows - rows_before) / (now - before)
            self._seen = (now, rows)
        marks = [m.watermark_us for m in self.metrics.steps.values() if m.watermark_us is not None]
        self.listener(
            Progress(
                elapsed_s=now - self.started,
                steps={
                    name: StepProgress(m.kind, m.rows_in, m.rows_out, m.bytes_out, m.errors, m.done)
                    for name, m in self.metrics.steps.items()
                },
                rows_per_s=self._rate,
                checkpoints=self.checkpoints + (stats.completed if stats else 0),
                last_checkpoint_s=stats.last_s if stats else None,
                backlog_rows=attempt.backlog_rows if attempt else 0,
                message=message,
                watermark=rfc3339(min(marks)) if marks else None,
            )
        )

    def _source_rows(self) -> int:
        return sum(m.rows_out or 0 for m in self.metrics.steps.values() if m.kind == "source")
