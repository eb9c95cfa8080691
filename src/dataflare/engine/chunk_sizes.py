"""How large the next chunk of a source should be: small at first, and then as much as the steps behind do soon."""

from __future__ import annotations

from typing import Protocol

from dataflare.engine.cost import BatchCost
from dataflare.engine.pace import Pace, PacesBehind

_FIRST_BYTES, _FIRST_BYTES_OUT, _LARGE_BYTES = 256 << 10, 8 << 10, 64 << 20
_LARGE_ROWS = 1 << 30
"""How long a function of the user, or another system, takes for a row is not known beforehand."""


class Behind(Protocol):
    """What is known of the steps behind. timely_rows: as many as they do soon; None: it is not known."""

    @property
    def paces(self) -> PacesBehind: ...

    def timely_rows(self) -> int | None: ...


class ChunkSizes:
    """largest: how large a chunk may be by what was learned. calls_out: the steps behind call functions of the user or other systems. pace: that of the source."""

    def __init__(self, *, calls_out: bool, pace: Pace) -> None:
        self.largest = _FIRST_BYTES_OUT if calls_out else _FIRST_BYTES
        self._row_bytes = 0.0
        self._cost = BatchCost()
        self._pace = pace

    def bytes_max(self, behind: Behind) -> int | None:
        """How large the next chunk should be at most; None: of any size. The first ones are small, and ever larger, until
        it is known how fast the steps behind are."""
        timely, paced = self._timely_bytes(behind), self._pace.bytes_at_once
        paced = min([paced, *(pace.bytes_at_once for pace in behind.paces.paces)])
        return min(timely or paced, paced) if paced < _LARGE_BYTES else timely

    def largest_next(self, behind: Behind) -> tuple[int | None, int | None]:
        """`bytes_max` and `rows_max`."""
        return self.bytes_max(behind), self.rows_max(behind)

    def rows_max(self, behind: Behind) -> int | None:
        """How many rows the next chunk should have at most, by the rates; None where there is none."""
        rows = behind.paces.rows_at_once(self._pace.rows_at_once)
        return rows if rows < _LARGE_ROWS else None

    def _timely_bytes(self, behind: Behind) -> int | None:
        timely_rows = behind.timely_rows() if self._row_bytes else None
        if timely_rows is None:
            return self.largest if self.largest < _LARGE_BYTES else None
        return max(1, min(self.largest, int(timely_rows * self._row_bytes)))

    def learn(self, num_bytes: int, rows: int, seconds: float) -> None:
        """A chunk took so long here. The next ones may be twice as large, if they take no longer than `TIMELY_S`."""
        self._cost.record(rows, seconds)
        self._row_bytes = num_bytes / rows
        self.largest = min(2 * self.largest, _LARGE_BYTES)
        timely = self._cost.timely_rows()
        if timely is not None:
            self.largest = max(1, min(self.largest, int(timely * self._row_bytes)))
