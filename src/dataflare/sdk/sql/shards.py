"""Divide a full read of a table into parts by a column: shared by the databases.

Always true: each row is in exactly one part. Rows without a value are in the first part, which has
no lower bound; the last part has no upper bound.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from dataflare.errors import ConfigError
from dataflare.model.progress import Split
from dataflare.model.types import DataType
from dataflare.sdk.sql.config import Sharding
from dataflare.sdk.sql.relation import Column, Relation

SPANS_MAX = 10_000
_FIRST = datetime(1, 1, 1, tzinfo=UTC).timestamp()
_LAST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


def span_starts(
    low: float, high: float, every: float | str | None, count: int, label: str
) -> list[float]:
    """The starts of the parts after the first, in seconds since 1970, for times from `low` to
    `high`. every: the length in seconds, `month` or `year` (in UTC); None: `count` parts of equal
    length. No part begins before the year 1 or after 9999: rows outside are in the first and the
    last part. Raises E0413."""
    low, high = max(low, _FIRST), min(high, _LAST)
    if low > high:
        return []
    if every is None:
        return [low + (high - low) * i / count for i in range(1, count)]
    if isinstance(every, str):
        step = 12 if every == "year" else 1
        first, last = (_months(moment) // step for moment in (low, high))
        _bounded(last - first, label)
        return [_month_start(number * step) for number in range(first + 1, last + 1)]
    spans = int(high // every) - int(low // every)
    _bounded(spans, label)
    start = int(low // every) + 1
    return [(start + i) * every for i in range(spans)]


def _bounded(spans: int, label: str) -> None:
    if spans >= SPANS_MAX:
        raise ConfigError(
            f"'every' would make {spans + 1:,} parts of {label}",
            code="E0413",
            help=f"choose a longer span: the limit is {SPANS_MAX:,} parts",
        )


def _months(moment: float) -> int:
    """Months since the year 0."""
    when = datetime.fromtimestamp(moment, UTC)
    return when.year * 12 + when.month - 1


def _month_start(months: int) -> float:
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC).timestamp()


def utc_seconds(text: str) -> float:
    """Seconds since 1970 of a time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def moment_text(moment: float, type_: DataType) -> str:
    """A moment as database files write it; for a column of dates, the day that contains it."""
    when = datetime.fromtimestamp(moment, UTC)
    if type_.name == "date":
        return when.date().isoformat()
    text = when.replace(tzinfo=None).isoformat(" ")
    return text + "+00:00" if type_.timezone else text


def need_time(name: str, type_: DataType) -> None:
    """Raises E0413 if the column has no times."""
    if type_.name not in ("date", "timestamp"):
        raise ConfigError(
            f"column '{name}' is {type_}, and by: time needs dates or timestamps",
            code="E0413",
            help="use by: range, or name a column of dates or timestamps",
        )


def uncuttable(name: str, type_: DataType) -> ConfigError:
    return ConfigError(
        f"column '{name}' is {type_}, which has no order to divide by",
        code="E0413",
        help="use by: hash, or name a column of numbers, text, dates or timestamps",
    )


def bad_boundary(value: Any, name: str, type_: DataType) -> ConfigError:
    return ConfigError(
        f"boundary {value!r} is not a value of column '{name}', which is {type_}",
        code="E0413",
        help="set boundaries of the column's type, and not null",
    )


def range_condition(
    name: str, low: Any, high: Any, spelled: Callable[[Any], str], *, null_of: str | None = None
) -> str:
    """The SQL condition for values from `low` to before `high`. Rows without a value are in the part without a
    lower bound. name: the column, as it is compared. null_of: the column by which NULL is found."""
    ends = ((">=", low), ("<", high))
    parts = [f"{name} {sign} {spelled(end)}" for sign, end in ends if end is not None]
    bounds = " and ".join(parts) or "true"
    return bounds if low is not None else f"(({bounds}) or {null_of or name} is null)"


class ColumnCut(ABC):
    """Divides a relation by a column of it. type: of the column in the database."""

    def __init__(self, relation: Relation[Any], column: Column, type_: DataType) -> None:
        self.label, self.column, self.type = relation.label, column, type_

    @abstractmethod
    def has_order(self) -> bool:
        """Whether the column has an order to divide by."""

    @abstractmethod
    def sorted_boundaries(self, values: Sequence[Any]) -> Sequence[Any]:
        """The user's values in the column's order, without duplicates. Raises E0413 if one is not a value of the
        column."""

    @abstractmethod
    def even_edges(self, count: int) -> Sequence[Any]:
        """The values that divide the rows into about equal parts."""

    @abstractmethod
    def times(self) -> tuple[float, float] | None:
        """The first and the last time, in seconds since 1970; None without rows."""

    def time_edges(self, texts: Sequence[str]) -> Sequence[Any]:
        """The starts of spans, sorted, as edges."""
        return texts

    def splits(self, sharding: Sharding, count: int) -> Sequence[Split]:
        name = self.column.name
        if sharding.by == "time":
            need_time(name, self.type)
        if not self.has_order():
            raise uncuttable(name, self.type)
        if sharding.boundaries is not None:
            edges = self.sorted_boundaries(sharding.boundaries)
        elif sharding.by == "time":
            edges = self.time_edges(self._span_texts(sharding, count))
        else:
            edges = self.even_edges(count)
        return edge_splits(name, edges)

    def _span_texts(self, sharding: Sharding, count: int) -> Sequence[str]:
        if (times := self.times()) is None:
            return []
        starts = span_starts(*times, sharding.every, count, self.label)
        return sorted({moment_text(start, self.column.type) for start in starts})


def edge_splits(column: str, edges: Sequence[Any]) -> Sequence[Split]:
    """A part below the first edge, one between each two edges, and one from the last edge on. Edges
    ascend."""
    ends: list[Any] = [None, *edges, None]
    return [
        Split(f"rows-{i}", {"column": column, "low": ends[i], "high": ends[i + 1]})
        for i in range(len(ends) - 1)
    ]


def hash_splits(column: str | None, count: int) -> Sequence[Split]:
    """column: None for the row's number."""
    return [Split(f"rows-{i}", {"hash": [i, count], "column": column}) for i in range(count)]
