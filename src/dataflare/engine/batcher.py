"""How many rows a source is asked for next.

A batch costs `a + b * rows` seconds: overhead and work. Both are learned from the batches that went
by (least squares with exponential forgetting), and the size is set where a batch takes the latency
target, moving a share of the way at each look; within a tenth of it, it stays. So it settles.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from dataflare.engine.cost import BatchCost

_CLOSE = 0.1
_FIRST_LOOK_S = 0.02


class BatchingMetrics:
    """What went by: totals, rates and the distribution of batch sizes (by powers of two)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self.rows_total = 0
        self.batches_total = 0
        self.seconds_total = 0.0
        self._sizes: Counter[int] = Counter()

    def record(self, rows: int, seconds: float) -> None:
        self.rows_total += rows
        self.batches_total += 1
        self.seconds_total += seconds
        self._sizes[1 << max(0, rows - 1).bit_length()] += 1

    def throughput(self) -> float:
        """Rows per second since the start."""
        return self.rows_total / max(1e-9, self._clock() - self._started)

    def average_latency(self) -> float:
        """Seconds a batch took, on average."""
        return self.seconds_total / self.batches_total if self.batches_total else 0.0

    def size_distribution(self) -> dict[int, int]:
        """Batches by size, rounded up to a power of two."""
        return dict(sorted(self._sizes.items()))

    def totals(self) -> dict[str, float]:
        return {
            "rows": self.rows_total,
            "batches": self.batches_total,
            "seconds": self.seconds_total,
        }


class AdaptiveBatcher:
    """Chooses between latency and throughput within [min_rows, max_rows]."""

    def __init__(
        self,
        *,
        initial: int = 1_000,
        min_rows: int = 100,
        max_rows: int = 100_000,
        latency_target: float = 0.02,
        throughput_target: float | None = None,
        adaptation_rate: float = 0.2,
        evaluation_interval: float = 5.0,
        stability_threshold: int = 10,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.min_rows, self.max_rows = min_rows, max_rows
        self.latency_target, self.throughput_target = latency_target, throughput_target
        self.adaptation_rate = adaptation_rate
        self.evaluation_interval = evaluation_interval
        self.stability_threshold = stability_threshold
        self.metrics = BatchingMetrics(clock)
        self._clock = clock
        self._rows = float(min(max_rows, max(min_rows, initial)))
        self.cost = BatchCost()
        self._calm = 0
        # The first looks come soon and then ever more seldom, up to the interval.
        self._pause = min(_FIRST_LOOK_S, evaluation_interval)
        self._next_look = clock() + self._pause

    @property
    def stable(self) -> bool:
        """Whether the size has settled."""
        return self._calm >= self.stability_threshold

    def batch_size(self) -> int:
        """Rows to ask for now."""
        return round(self._rows)

    def record_batch(self, rows: int, seconds: float) -> None:
        """A batch of `rows` took `seconds` through the chain."""
        self.metrics.record(rows, seconds)
        self.cost.record(rows, seconds)
        now = self._clock()
        if now >= self._next_look:
            self._pause = min(self.evaluation_interval, self._pause * 1.5)
            self._next_look = now + self._pause
            self._look()

    def _look(self) -> None:
        wanted = self._wanted()
        if abs(wanted - self._rows) <= _CLOSE * self._rows:
            self._calm += 1
            return
        if self.stable and 0.5 <= wanted / self._rows <= 2.0:
            return
        self._calm = 0
        step = self.adaptation_rate * (wanted - self._rows)
        # Growth is bounded by what was seen: a line fitted to small batches says little of large ones.
        self._rows = min(self._rows + step, self._rows * 4.0)
        self._rows = min(float(self.max_rows), max(float(self.min_rows), self._rows))

    def _wanted(self) -> float:
        overhead, per_row = self.cost.fitted()
        if per_row <= 0:
            return float(self.max_rows)
        rows = (self.latency_target - overhead) / per_row
        if self.throughput_target is not None:
            # The smallest batch that is fast enough: rows / (a + b rows) = target.
            room = 1.0 - per_row * self.throughput_target
            if room > 0:
                rows = min(rows, self.throughput_target * overhead / room)
        return min(float(self.max_rows), max(float(self.min_rows), rows))
