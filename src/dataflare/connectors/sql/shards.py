"""Cut a full read of a table into parts by a column: what the databases have in common.

Always true: each row is in exactly one part. Rows without a value are in the first, which has no lower
end; the last has no upper one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from dataflare.errors import ConfigError
from dataflare.model.progress import Split
from dataflare.model.types import DataType

SPANS_MAX = 10_000
_FIRST = datetime(1, 1, 1, tzinfo=UTC).timestamp()
_LAST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


def span_starts(
    low: float, high: float, every: float | str | None, count: int, shown: str
) -> list[float]:
    """Where the parts behind the first begin, in seconds since 1970, for times from `low` to `high`:
    `every` so many seconds, `month` or `year` (in UTC); or `count` of one length. No part begins
    before the year 1 or after 9999: what the databases hold beyond is in the first and the last.
    Raises E0413."""
    low, high = max(low, _FIRST), min(high, _LAST)
    if low > high:
        return []
    if every is None:
        return [low + (high - low) * i / count for i in range(1, count)]
    if isinstance(every, str):
        step = 12 if every == "year" else 1
        first, last = (_months(moment) // step for moment in (low, high))
        _bounded(last - first, shown)
        return [_month_start(number * step) for number in range(first + 1, last + 1)]
    spans = int(high // every) - int(low // every)
    _bounded(spans, shown)
    start = int(low // every) + 1
    return [(start + i) * every for i in range(spans)]


def _bounded(spans: int, shown: str) -> None:
    if spans >= SPANS_MAX:
        raise ConfigError(
            f"'every' would make {spans + 1:,} parts of {shown}",
            code="E0413",
            help=f"choose a longer span: there may be {SPANS_MAX:,}",
        )


def _months(moment: float) -> int:
    """Months since the year 0."""
    when = datetime.fromtimestamp(moment, UTC)
    return when.year * 12 + when.month - 1


def _month_start(months: int) -> float:
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC).timestamp()


def moment_text(moment: float, type_: DataType) -> str:
    """A moment as the files' databases write it; a part that begins inside a day begins with it
    where the column has dates."""
    when = datetime.fromtimestamp(moment, UTC)
    if type_.name == "date":
        return when.date().isoformat()
    text = when.replace(tzinfo=None).isoformat(" ")
    return text + "+00:00" if type_.timezone else text


def need_time(name: str, type_: DataType) -> None:
    """Raises E0413 for a column that has no times."""
    if type_.name not in ("date", "timestamp"):
        raise ConfigError(
            f"column '{name}' is {type_}, and by: time needs dates or timestamps",
            code="E0413",
            help="use by: range, or name a column of dates or timestamps",
        )


def uncuttable(name: str, type_: DataType) -> ConfigError:
    return ConfigError(
        f"column '{name}' is {type_}, which has no order to be cut by",
        code="E0413",
        help="use by: hash, or name a column of numbers, text, dates or timestamps",
    )


def edged(column: str, edges: Sequence[Any]) -> Sequence[Split]:
    """A part below the first edge, between each two, and from the last on. Edges ascend."""
    ends: list[Any] = [None, *edges, None]
    return [
        Split(f"rows-{i}", {"column": column, "low": ends[i], "high": ends[i + 1]})
        for i in range(len(ends) - 1)
    ]


def hashed(column: str | None, count: int) -> Sequence[Split]:
    """column: None for the row's number."""
    return [Split(f"rows-{i}", {"hash": [i, count], "column": column}) for i in range(count)]
