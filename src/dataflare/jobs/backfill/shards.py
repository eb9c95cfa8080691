"""The parts into which a backfill cuts its rows. Pure.

Always true: each value from `begin` up to, and without, `end` is in exactly one shard; shards are in the order of their
values. Days, weeks, months and years are those of UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Literal

from msgspec import Struct

from dataflare.errors import WorkflowError
from dataflare.model.types import DataType
from dataflare.model.units import parse_duration

REFUSED = "E0131"
SHARDS_MAX = 100_000
_UNITS = ("hour", "day", "week", "month", "year")
_HASH = re.compile(r"hash:(\d+)")
_FORMS = "day, hour, week, month, year, a duration such as 6h, a number, hash:8, or values with commas between them"

Bound = int | datetime
Kind = Literal["date", "timestamp", "timestamp with zone", "integer"]


class Shard(Struct, frozen=True):
    """name: for files, unique in its backfill. begin, end: texts of the values; None where there is no such bound.
    bucket: of a hash, and of how many."""

    name: str
    begin: str | None = None
    end: str | None = None
    bucket: tuple[int, int] | None = None

    @property
    def has_bounds(self) -> bool:
        return self.begin is not None or self.end is not None

    @property
    def span(self) -> str:
        """The bounds in words; empty without any."""
        if self.begin is None or self.end is None:
            first = f"from {self.begin}" if self.begin is not None else ""
            return first or (f"before {self.end}" if self.end is not None else "")
        return f"{self.begin} to {self.end}"

    def condition(self, column: str, kind: Kind) -> str:
        """The rows of the shard, as an expression."""
        quoted = '"' + column.replace('"', '""') + '"'
        bounds = ((">=", self.begin), ("<", self.end))
        parts = [f"{quoted} {sign} {_literal(v, kind)}" for sign, v in bounds if v is not None]
        if self.bucket is not None:
            number, of = self.bucket
            parts.append(f"xxhash(coalesce(CAST({quoted} AS string), '')) % {of} = {number}")
        return " AND ".join(parts)


def kind_of(type_: DataType) -> Kind | None:
    """How bounds of a column are written; None for a type that has no ranges here."""
    if type_.is_integer:
        return "integer"
    if type_.name == "date":
        return "date"
    if type_.name == "timestamp":
        return "timestamp" if type_.timezone is None else "timestamp with zone"
    return None


def shards_of(begin: str | None, end: str | None, by: str) -> list[Shard]:
    """The shards of `--from`, `--to` and `--shards`. Raises WorkflowError (E0131)."""
    hashed = _HASH.fullmatch(by)
    if hashed is not None:
        count = int(hashed[1])
        _check_count(count)
        _check_order(begin, end, [bound(each) for each in (begin, end) if each is not None])
        width = len(str(count - 1))
        return [Shard(f"hash-{n:0{width}}", begin, end, (n, count)) for n in range(count)]
    if begin is None or end is None:
        raise _refused(
            "--from and --to are missing", "name the first value, and the one behind the last"
        )
    if "," in by:
        cuts = [bound(begin), *(bound(each.strip()) for each in by.split(",")), bound(end)]
        bounds = list(dict.fromkeys(cuts))
    else:
        bounds = list(_bounds(bound(begin), bound(end), by))
    _check_order(begin, end, bounds)
    _check_count(len(bounds) - 1)
    width = len(str(max(len(bounds) - 2, 0)))
    return [
        Shard(f"{number:0{width}}", text(low), text(high))
        for number, (low, high) in enumerate(pairwise(bounds))
    ]


def _check_order(begin: str | None, end: str | None, bounds: Sequence[Bound]) -> None:
    if any(
        isinstance(a, int) is not isinstance(b, int) or not _is_less(a, b)
        for a, b in pairwise(bounds)
    ):
        raise _refused(
            f"the values from {begin} to {end} are not in order, or of different kinds",
            "let --from be before --to, and the values of --shards between them, in order",
        )


def bound(value: str) -> Bound:
    """An integer, a date or a time: digits alone are an integer. A time without a zone is taken as UTC. Raises
    WorkflowError (E0131)."""
    if re.fullmatch(r"-?\d+", value):
        return int(value)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise _refused(
            f"'{value}' is neither a number, a date nor a time",
            "write 1000, 2024-01-31 or 2024-01-31T06:00:00Z",
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def text(value: Bound) -> str:
    """A bound as `bound` reads it: a date where it is the beginning of a day."""
    if isinstance(value, int):
        return str(value)
    whole = value.timetz().isoformat() == "00:00:00+00:00"
    return value.date().isoformat() if whole else value.isoformat().replace("+00:00", "Z")


def as_parameter(value: str, type_: str) -> str:
    """A bound as the value of a parameter of this type."""
    at = bound(value)
    if type_ != "timestamp" or isinstance(at, int):
        return value
    return at.isoformat().replace("+00:00", "Z")


def _is_less(a: Bound, b: Bound) -> bool:
    return a < b  # type: ignore[operator]


def _bounds(begin: Bound, end: Bound, by: str) -> Iterator[Bound]:
    """`begin`, what is between, and `end`."""
    step = _step(by)
    if isinstance(begin, int) or isinstance(end, int):
        if not (isinstance(begin, int) and isinstance(end, int) and isinstance(step, int)):
            raise _refused(
                f"--shards {by} does not go with --from {begin} and --to {end}",
                "numbers go with a number, times with a unit or a duration; a date has hyphens: 2024-01-31",
            )
        _check_count(-((begin - end) // step))
        yield from range(begin, end, step)
        yield end
        return
    if isinstance(step, int):
        raise _refused(
            f"--shards {by} is for numbers", "name a unit such as day, or a duration such as 6h"
        )
    if isinstance(step, timedelta):
        _check_count(-((begin - end) // step))
    at = begin
    count = 0
    while at < end:
        _check_count(count := count + 1)
        yield at
        at = at + step if isinstance(step, timedelta) else _next(at, step)
    yield end


def _step(by: str) -> int | timedelta | str:
    if by in _UNITS:
        return by
    if by.isdigit() and int(by) > 0:
        return int(by)
    try:
        seconds = parse_duration(by)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise _refused(f"--shards '{by}' is not known", f"write {_FORMS}")
    return timedelta(seconds=seconds)


def _next(at: datetime, unit: str) -> datetime:
    """The beginning of the next hour, day, week (from Monday), month or year."""
    if unit == "hour":
        return at.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    match unit:
        case "day":
            return day + timedelta(days=1)
        case "week":
            return day + timedelta(days=7 - day.weekday())
        case "month":
            return (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    return day.replace(month=1, day=1, year=day.year + 1)


def _literal(value: str, kind: Kind) -> str:
    at = bound(value)
    if kind == "integer":
        if isinstance(at, int):
            return f"({at})" if at < 0 else str(at)
    elif isinstance(at, datetime):
        if kind == "date":
            if at.time() != datetime.min.time():
                raise _refused(f"'{value}' is within a day, and the column has dates", "write days")
            return f"DATE '{date.isoformat(at.date())}'"
        plain = at.replace(tzinfo=None).isoformat(sep=" ")
        return f"TIMESTAMP '{plain}'" if kind == "timestamp" else f"TIMESTAMPTZ '{plain}+00'"
    raise _refused(
        f"the column has values of the kind {kind}, and '{value}' is of another one",
        "name another --column, or other values for --from and --to; a date has hyphens: 2024-01-31",
    )


def _check_count(count: int) -> None:
    if not 1 <= count <= SHARDS_MAX:
        raise _refused(
            f"that is {count:,} shards; there may be 1 to {SHARDS_MAX:,}",
            "let --from be before --to, and take larger shards",
        )


def _refused(message: str, help: str) -> WorkflowError:
    return WorkflowError(message, code=REFUSED, help=help)
