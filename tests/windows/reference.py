"""What windows should give, written to be read: every row, every window, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msgspec import Struct

Key = tuple[Any, ...]
Window = tuple[int, int]
"""Start and end."""


class Row(Struct, frozen=True):
    """A row of a split, with the watermark of the split at this row. In microseconds."""

    key: Any
    time: int
    value: int | None
    watermark: int
    number: int


class Outcome(Struct, frozen=True):
    """windows: the values that each window of each key took, in the order of their event times. late: the numbers
    of the late rows. in_part: those of rows that only some of their windows took."""

    windows: dict[tuple[Any, Window], list[int | None]]
    late: list[int]
    in_part: list[int]


def periodic(size: int, slide: int, offset: int = 0) -> Callable[[int], Iterator[Window]]:
    """The tumbling or sliding windows that a time belongs to."""

    def windows_of(time: int) -> Iterator[Window]:
        start = offset + (time - offset) // slide * slide
        while start + size > time:
            yield start, start + size
            start -= slide

    return windows_of


def evaluate(
    rows: Sequence[Row], windows_of: Callable[[int], Iterator[Window]], lateness: int
) -> Outcome:
    """A window takes a row if it ends, with the lateness, after the row's watermark. A row that no window
    takes is late."""
    windows: dict[tuple[Any, Window], list[Row]] = {}
    late, in_part = [], []
    for row in rows:
        whole = [*windows_of(row.time)]
        taking = [w for w in whole if w[1] + lateness > row.watermark]
        for window in taking:
            windows.setdefault((row.key, window), []).append(row)
        if not taking:
            late.append(row.number)
        elif len(taking) < len(whole):
            in_part.append(row.number)
    taken = {at: in_order(taken) for at, taken in windows.items()}
    return Outcome(taken, sorted(late), sorted(in_part))


def in_order(rows: Sequence[Row]) -> list[int | None]:
    return [row.value for row in sorted(rows, key=lambda row: (row.time, row.number))]


def measured(values: Sequence[int | None]) -> dict[str, Any]:
    """The measures of the tests over the values of one window."""
    known = [value for value in values if value is not None]
    return {
        "n": len(values),
        "total": sum(known) if known else None,
        "low": min(known, default=None),
        "high": max(known, default=None),
        "mean": sum(known) / len(known) if known else None,
        "first": values[0],
        "last": values[-1],
    }


MEASURES = {
    "n": "count(*)",
    "total": "sum(v)",
    "low": "min(v)",
    "high": "max(v)",
    "mean": "avg(v)",
    "first": "first(v)",
    "last": "last(v)",
}
