"""What a batch costs: overhead and time per row, learned from the batches that went by."""

from __future__ import annotations

_FORGET = 0.98
TIMELY_S = 0.25
"""A barrier should not wait longer than about this for one batch."""
_OVERHEADS = 4
"""A batch is not made so small that its overhead is more than one in so many parts of its time."""


_ROW_BYTES = 100.0
"""Of rows of which none was seen yet."""


class Weight:
    """How many bytes a row has, learned from the batches that went by."""

    def __init__(self) -> None:
        self._rows = self._bytes = 0.0

    def record(self, rows: int, num_bytes: int) -> None:
        """A batch of `rows` has `num_bytes`."""
        if rows and num_bytes:
            self._rows = self._rows * _FORGET + rows
            self._bytes = self._bytes * _FORGET + num_bytes

    def rows_of(self, num_bytes: float) -> float:
        return num_bytes / self._row_bytes

    def bytes_of(self, rows: float) -> float:
        return rows * self._row_bytes

    @property
    def _row_bytes(self) -> float:
        return self._bytes / self._rows if self._rows else _ROW_BYTES


class BatchCost:
    """A batch of `rows` takes `a + b * rows` seconds: least squares with exponential forgetting."""

    def __init__(self) -> None:
        self._sums = [0.0] * 5

    def record(self, rows: int, seconds: float) -> None:
        """A batch of `rows` took `seconds`."""
        for index, value in enumerate((1.0, rows, rows * rows, seconds, rows * seconds)):
            self._sums[index] = self._sums[index] * _FORGET + value

    def fitted(self) -> tuple[float, float]:
        """The overhead of a batch and the time per row, seconds, neither below 0."""
        n, x, xx, y, xy = self._sums
        spread = n * xx - x * x
        if spread <= 1e-6 * n * xx:
            # All batches had one size: what they took is shared out by row.
            return 0.0, y / x if x else 0.0
        per_row = max(0.0, (n * xy - x * y) / spread)
        overhead = (y - per_row * x) / n
        if overhead < 0:
            return 0.0, xy / xx
        return overhead, per_row

    def timely_rows(self) -> int | None:
        """How many rows are done within `TIMELY_S`, or within a few times the overhead where that is longer. None while
        it is not known."""
        overhead, per_row = self.fitted()
        if per_row <= 0:
            return None
        seconds = max(TIMELY_S, _OVERHEADS * overhead)
        return max(1, int((seconds - overhead) / per_row))
