"""Instants: from parts, moved by intervals, in time zones and in buckets.

Always true, as in DuckDB: a wall clock time that occurs twice means the later instant, and a time that the
clock skips gets the offset from before.
"""

from __future__ import annotations

from datetime import timedelta
from zoneinfo import available_timezones

import polars as pl

from dataflare.errors import did_you_mean
from dataflare.expr import problems, registry, rowerrors
from dataflare.expr.calendar import days_from_civil, existing, in_range, local, localise
from dataflare.expr.check import Call
from dataflare.expr.conversions import convert
from dataflare.expr.functions.temporal import moment_of
from dataflare.expr.functions.times import resolve_times
from dataflare.expr.intervals import MICROSECONDS, unit_named
from dataflare.expr.lowered import Lowered, fail_where
from dataflare.expr.registry import register
from dataflare.expr.sqltypes import INTERVAL
from dataflare.expr.tree import Node
from dataflare.model import types as t

_ONE_US = timedelta(microseconds=1)


def _resolve_add(call: Call) -> Node:
    call.arity(2, 2)
    call.args[0] = moment_of(call, 0)
    plus = Call(registry.row("+"), call.ast, call.args, call.checker)
    time_node = resolve_times(plus)
    assert time_node is not None
    return time_node


def _make_date(node: Node, year: pl.Expr, month: pl.Expr, day: pl.Expr) -> Lowered:
    days = days_from_civil(year, month, day)
    all_set = year.is_not_null() & month.is_not_null() & day.is_not_null()
    return Lowered(
        days.cast(pl.Int32, strict=False).cast(pl.Date),
        fail_where(all_set & days.is_null(), rowerrors.DATE),
    )


def _make_timestamp(node: Node, *parts: pl.Expr) -> Lowered | pl.Expr:
    if len(parts) == 1:
        factor = int(node.value or 1)
        ticks = parts[0] * factor
        mask = None if factor == 1 else fail_where(ticks // factor != parts[0], rowerrors.OVERFLOW)
        return Lowered(ticks.cast(pl.Datetime("us")), mask)
    year, month, day, hour, minute, second = parts
    days = days_from_civil(year, month, day)
    fits = hour.is_between(0, 23) & minute.is_between(0, 59) & (second >= 0) & (second <= 60)
    micros = (second * 1e6).round(0).cast(pl.Int64, strict=False)
    total = days * 86_400_000_000 + hour * 3_600_000_000 + minute * 60_000_000 + micros
    all_set = pl.all_horizontal(part.is_not_null() for part in parts)
    good = fits & days.is_not_null()
    return Lowered(
        pl.when(good).then(total).cast(pl.Datetime("us")),
        fail_where(all_set & ~good.fill_null(False), rowerrors.DATE),
    )


def _to_timestamp(node: Node, seconds: pl.Expr) -> Lowered:
    micros = (seconds * 1e6).round(0, mode="half_to_even").cast(pl.Int64, strict=False)
    return Lowered(
        micros.cast(pl.Datetime("us", "UTC")),
        fail_where(micros.is_null() & seconds.is_not_null(), rowerrors.DATE),
    )


def zone_named(call: Call, place: int) -> str | None:
    """The literal time zone. Raises ExpressionError with the most similar name if it is unknown."""
    zone = call.const(place, "the time zone")
    if zone is None:
        return None
    if not isinstance(zone, str) or zone not in available_timezones():
        raise call.fail(
            f"unknown time zone '{zone}'", arg=place, code=problems.BAD_LITERAL,
            notes=["zones have names like UTC, Europe/Paris, America/New_York"],
            help=did_you_mean(str(zone), sorted(available_timezones())),
        )  # fmt: skip
    return zone


def _resolve_timezone(call: Call) -> Node:
    """The wall clock of a zone as an instant, or an instant as the wall clock of a zone."""
    call.arity(2, 2)
    zone = zone_named(call, 0)
    moment = moment_of(call, 1)
    if zone is None:
        return Node("literal", t.TIMESTAMP)
    if moment.type.name == "date":
        moment = convert(moment, t.TIMESTAMP)
    unit = moment.type.unit or "us"
    return call.node(
        t.timestamp(unit, "UTC" if moment.type.timezone is None else None), [moment], zone
    )


def _timezone(node: Node, x: pl.Expr) -> Lowered | pl.Expr:
    """A wall clock time that the zone skipped is an error of the row, because no instant has it."""
    zone, type_ = str(node.value), node.args[0].type
    bounded = in_range(x, type_)
    if type_.timezone is None:
        instant = existing(bounded, zone).dt.convert_time_zone("UTC")
        return Lowered(instant, fail_where(instant.is_null() & x.is_not_null(), rowerrors.DATE))
    return bounded.dt.convert_time_zone(zone).dt.replace_time_zone(None)


def _resolve_to_utc(call: Call) -> Node:
    call.arity(1, 2)
    moment = moment_of(call, 0)
    if moment.type.name == "date":
        moment = convert(moment, t.TIMESTAMP)
    unit = moment.type.unit or "us"
    if moment.type.timezone is not None:
        return Node("cast", t.timestamp(unit, "UTC"), (moment,), False)
    if len(call.args) == 1:
        raise call.fail("to_utc() of a timestamp without a zone needs the zone it is in", arg=0,
                        code=problems.ARGUMENTS, help="write to_utc(x, 'Europe/Paris')")  # fmt: skip
    zone = zone_named(call, 1)
    return Node("timezone", t.timestamp(unit, "UTC"), (moment,), zone)


def _resolve_interval(call: Call) -> Node:
    """INTERVAL (x) DAY."""
    unit = unit_named(str(call.args[1].value)) or ""
    if call.args[0].type.name == "interval" or unit not in MICROSECONDS:
        raise call.fail("an interval of months or years must be a literal", arg=0, code=problems.BAD_LITERAL,
                        help="write INTERVAL '3 months'")  # fmt: skip
    if not call.args[0].type.is_integer:
        raise call.fail(
            f"INTERVAL (...) {unit.upper()} expects an integer, not {call.args[0].type}", arg=0
        )
    return call.node(t.DURATION, [convert(call.args[0], t.INT64)], MICROSECONDS[unit])


def _interval(node: Node, count: pl.Expr) -> Lowered:
    length = count * int(node.value)
    return Lowered(
        length.cast(pl.Duration("us")),
        fail_where(length // int(node.value) != count, rowerrors.OVERFLOW),
    )


_ORIGIN_US, _ORIGIN_MONTHS = 946_857_600_000_000, 360


"""The origin of DuckDB's buckets: 2000-01-03, a Monday; for months, 2000-01-01."""


def _resolve_bucket(call: Call) -> Node:
    call.arity(2, 2)
    width, moment = call.args[0], moment_of(call, 1)
    if not width.is_literal or width.type not in (t.DURATION, INTERVAL):
        raise call.fail(
            "the width of time_bucket() is an interval", arg=0, help="write INTERVAL '15 minutes'"
        )
    months, micros = width.value if width.type == INTERVAL else (0, width.value // _ONE_US)
    if (months and micros) or months < 0 or micros < 0 or not (months or micros):
        raise call.fail("the width of time_bucket() is either months or shorter, and above 0", arg=0,
                        code=problems.BAD_LITERAL)  # fmt: skip
    target = (
        t.TIMESTAMP if moment.type.timezone is None else t.timestamp("us", moment.type.timezone)
    )
    return call.node(target, [convert(moment, target)], (months, micros))


def _bucket(node: Node, x: pl.Expr) -> pl.Expr:
    months, micros = node.value
    zone = node.type.timezone
    if micros:
        ticks = in_range(x, node.type).to_physical()
        first_tick = ticks - (ticks - _ORIGIN_US % int(micros)) % int(micros)
        return first_tick.cast(node.type.to_polars())
    clock = local(x, node.type)
    index = (clock.dt.year().cast(pl.Int64) - 1970) * 12 + clock.dt.month().cast(pl.Int64) - 1
    first = index - (index - _ORIGIN_MONTHS) % months
    days = days_from_civil(1970 + first // 12, first % 12 + 1, pl.lit(1))
    naive = (days * 86_400_000_000).cast(pl.Datetime("us"))
    return naive if zone is None else localise(naive, zone)


register("date_add", "date_add(at: date | timestamp, step: interval) -> timestamp", "Moved by an interval; also at + step.",
         ("CAST(date_add(DATE '2024-01-31', INTERVAL '1 month') AS string)", "2024-02-29 00:00:00"), group="date", resolve=_resolve_add)  # fmt: skip
register("make_date", "make_date(year: int64, month: int64, day: int64) -> date", "The date of its parts.", ("CAST(make_date(2024, 2, 29) AS string)", "2024-02-29"),
         group="date", lower=_make_date)  # fmt: skip
register("make_timestamp", "make_timestamp(microseconds: int64) -> timestamp[us]\nmake_timestamp(year: int64, month: int64, day: int64, hour: int64, minute: int64, second: float64) -> timestamp[us]",
         "The timestamp of its parts, or of microseconds since 1970.", ("CAST(make_timestamp(2024, 2, 29, 1, 2, 3.5) AS string)", "2024-02-29 01:02:03.5"),
         group="date", lower=_make_timestamp)  # fmt: skip
register("to_timestamp", "to_timestamp(seconds: float64) -> timestamp[us, UTC]", "The instant that many seconds after 1970.", ("epoch_us(to_timestamp(1.5))", 1_500_000),
         group="date", lower=_to_timestamp)  # fmt: skip
register("timezone", "timezone(zone: const string, at: timestamp) -> timestamp", "The instant of a zone's wall clock, or the wall clock of an instant; also at AT TIME ZONE zone.",
         ("CAST(TIMESTAMP '2024-07-01 12:00:00' AT TIME ZONE 'Europe/Paris' AS string)", "2024-07-01 10:00:00+00"),
         group="date", resolve=_resolve_timezone, lower=_timezone)  # fmt: skip
register("to_utc", "to_utc(at: timestamp, [zone: const string]) -> timestamp[us, UTC]", "The instant in UTC; a timestamp without a zone needs the one it is in.",
         ("CAST(to_utc(TIMESTAMP '2024-07-01 12:00:00', 'Europe/Paris') AS string)", "2024-07-01 10:00:00+00"), group="date", resolve=_resolve_to_utc)  # fmt: skip
register("make_interval", "INTERVAL (x) UNIT", "An interval of a computed length, of days or shorter.", ("CAST(DATE '2024-01-01' + INTERVAL (1 + 1) DAY AS string)", "2024-01-03 00:00:00"),
         group="operator", resolve=_resolve_interval, lower=_interval)  # fmt: skip
register("time_bucket", "time_bucket(width: interval, at: date | timestamp) -> timestamp", "The begin of the bucket of that width.",
         ("CAST(time_bucket(INTERVAL '15 minutes', TIMESTAMP '2024-01-01 10:20:00') AS string)", "2024-01-01 10:15:00"), group="date", resolve=_resolve_bucket, lower=_bucket)  # fmt: skip
