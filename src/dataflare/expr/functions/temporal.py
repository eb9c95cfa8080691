"""Dates and times: their parts, truncation, differences and names.

Always true: the parts of a zoned timestamp are those of its zone's clock; values beyond 200,000 years give
NULL; weeks are ISO weeks, dayofweek counts from Sunday as 0, isodow from Monday as 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from dataflare.errors import did_you_mean
from dataflare.expr import problems, rowerrors
from dataflare.expr.calendar import TICKS, days_from_civil, local, localise
from dataflare.expr.check import Call
from dataflare.expr.conversions import convert, is_text_literal, meeting_type
from dataflare.expr.division import divide
from dataflare.expr.intervals import MICROSECONDS
from dataflare.expr.lowered import Lowered, fail_where
from dataflare.expr.registry import Example, Resolver, register
from dataflare.expr.tree import NOW_COLUMN, Node
from dataflare.model import types as t
from dataflare.model.types import DataType

Part = Callable[[pl.Expr], pl.Expr]

_DATE_PARTS: dict[str, Part] = {
    "year": lambda x: x.dt.year(),
    "quarter": lambda x: x.dt.quarter(),
    "month": lambda x: x.dt.month(),
    "week": lambda x: x.dt.week(),
    "isoyear": lambda x: x.dt.iso_year(),
    "day": lambda x: x.dt.day(),
    "dayofweek": lambda x: x.dt.weekday() % 7,
    "isodow": lambda x: x.dt.weekday(),
    "dayofyear": lambda x: x.dt.ordinal_day(),
    "decade": lambda x: x.dt.year() // 10,
    "century": lambda x: (x.dt.year() - 1) // 100 + 1,
    "yearweek": lambda x: x.dt.iso_year().cast(pl.Int64) * 100 + x.dt.week(),
}
_CLOCK_PARTS: dict[str, Part] = {
    "hour": lambda x: x.dt.hour(),
    "minute": lambda x: x.dt.minute(),
    "second": lambda x: x.dt.second(),
    "millisecond": lambda x: x.dt.second().cast(pl.Int64) * 1000 + x.dt.millisecond(),
    "microsecond": lambda x: x.dt.second().cast(pl.Int64) * 1_000_000 + x.dt.microsecond(),
}
_PART_NAMES = {
    "dow": "dayofweek", "weekday": "dayofweek", "doy": "dayofyear", "weekofyear": "week",
    "dayofmonth": "day", "years": "year", "months": "month", "days": "day", "hours": "hour",
    "minutes": "minute", "seconds": "second", "milliseconds": "millisecond", "ms": "millisecond",
    "microseconds": "microsecond", "us": "microsecond", "quarters": "quarter", "weeks": "week",
    "decades": "decade", "centuries": "century",
}  # fmt: skip


def part_named(call: Call, place: int, names: list[str]) -> str:
    """The literal part of a date, without plural and abbreviation. Raises ExpressionError with the most
    similar part if it is unknown."""
    name = str(call.const(place, "the part")).lower()
    part = _PART_NAMES.get(name, name)
    if part not in names:
        raise call.fail(
            f"unknown part '{name}'", arg=place, code=problems.BAD_LITERAL,
            notes=[f"known are: {', '.join(names)}"], help=did_you_mean(name, names),
        )  # fmt: skip
    return part


def moment_of(call: Call, place: int, *, time: bool = False) -> Node:
    """The argument as a date, timestamp or, if allowed, time. A text literal is converted."""
    arg = call.args[place]
    if arg.type.name in ("date", "timestamp") or (time and arg.type.name == "time"):
        return arg
    if is_text_literal(arg):
        converted = convert(arg, t.TIMESTAMP)
        if converted.is_literal and converted.type == t.TIMESTAMP:
            return converted
    if arg.type.name == "null":
        return convert(arg, t.TIMESTAMP)
    span = call.ast.args[place].span if place < len(call.ast.args) else call.ast.span
    text = call.checker.source.template[slice(*span)]
    raise call.fail(
        f"{call.function.name}() expects date or timestamp, not {arg.type}", arg=place,
        help=f"write CAST({text} AS timestamp)" if arg.type.is_text else None,
    )  # fmt: skip


def _resolve_part(call: Call) -> Node:
    """year(x) and similar functions, and date_part('year', x)."""
    if call.function.name != "date_part":
        call.arity(1, 1)
        part, place = call.function.name, 0
    else:
        call.arity(2, 2)
        part, place = part_named(call, 0, [*_DATE_PARTS, *_CLOCK_PARTS, "epoch"]), 1
    moment = moment_of(call, place, time=part in _CLOCK_PARTS)
    if part == "epoch":
        return Node("epoch", t.FLOAT64, (moment,))
    return Node("date_part", t.INT64, (moment,), part)


def _part(node: Node, x: pl.Expr) -> pl.Expr:
    part, type_ = str(node.value), node.args[0].type
    if part in _CLOCK_PARTS and type_.name == "date":
        return pl.when(x.is_not_null()).then(pl.lit(0, dtype=pl.Int64))
    clock = x if type_.name == "time" else local(x, type_)
    return (_DATE_PARTS.get(part) or _CLOCK_PARTS[part])(clock).cast(pl.Int64)


def _ticks(x: pl.Expr, type_: DataType) -> tuple[pl.Expr, int]:
    """Ticks since 1970, and ticks per second."""
    if type_.name == "date":
        return x.to_physical().cast(pl.Int64) * 86_400, 1
    return x.to_physical(), TICKS[type_.unit or "us"]


def _resolve_epoch(call: Call) -> Node:
    call.arity(1, 1)
    name = call.function.name
    if name == "epoch_ms" and call.args[0].type.is_integer:
        return Node("make_timestamp", t.TIMESTAMP, (convert(call.args[0], t.INT64),), 1000)
    return call.node(t.FLOAT64 if name == "epoch" else t.INT64, [moment_of(call, 0)])


def _epoch(per_second: int) -> Callable[[Node, pl.Expr], Lowered | pl.Expr]:
    def lower(node: Node, x: pl.Expr) -> Lowered | pl.Expr:
        ticks, rate = _ticks(x, node.args[0].type)
        if per_second >= rate:
            factor = per_second // rate
            result = ticks * factor
            if factor == 1:
                return result
            return Lowered(result, fail_where(result // factor != ticks, rowerrors.OVERFLOW))
        step = rate // per_second
        half = pl.when(ticks < 0).then(-(step // 2)).otherwise(step // 2)
        return (ticks + half).truncdiv(pl.lit(step, dtype=pl.Int64))

    return lower


def _epoch_seconds(node: Node, x: pl.Expr) -> pl.Expr:
    ticks, rate = _ticks(x, node.args[0].type)
    if rate < 1_000_000_000:
        return divide(ticks, pl.lit(float(rate)))
    # Nanoseconds of today are beyond 2^53: as one float they would lose digits before the division.
    whole = divide(ticks // 1_000, pl.lit(1e6))
    split = (ticks // rate).cast(pl.Float64) + divide(ticks % rate, pl.lit(1e9))
    return pl.when(ticks % 1_000 == 0).then(whole).otherwise(split)


_EVERY = {
    "microsecond": "1us", "millisecond": "1ms", "second": "1s", "minute": "1m", "hour": "1h",
    "day": "1d", "week": "1w", "month": "1mo", "quarter": "1q", "year": "1y",
}  # fmt: skip


def _resolve_trunc(call: Call) -> Node:
    call.arity(2, 2)
    part = part_named(call, 0, [*_EVERY, "decade", "century"])
    moment = moment_of(call, 1)
    if moment.type.name == "date":
        moment = convert(moment, t.TIMESTAMP)
    return call.node(moment.type, [moment], part)


def _trunc(node: Node, x: pl.Expr) -> pl.Expr:
    part, type_ = str(node.value), node.type
    clock = local(x, type_)
    if part in ("decade", "century"):
        year = clock.dt.year().cast(pl.Int64)
        first = year // 10 * 10 if part == "decade" else year // 100 * 100
        days = days_from_civil(first, pl.lit(1), pl.lit(1))
        unit: Any = "ms" if type_.unit == "s" else type_.unit
        truncated = (days * 86_400 * TICKS[type_.unit or "us"]).cast(pl.Datetime(unit))
    else:
        truncated = clock.dt.truncate(_EVERY[part])
    return truncated if type_.timezone is None else localise(truncated, type_.timezone)


def _resolve_diff(call: Call) -> Node:
    call.arity(3, 3)
    part = part_named(call, 0, [*_EVERY, "decade", "century"])
    pair = [moment_of(call, 1), moment_of(call, 2)]
    both = meeting_type(pair)
    if both is None:
        raise call.fail(f"cannot take the difference of {pair[0].type} and {pair[1].type}",
                        help="say which zone the naive one is in: x AT TIME ZONE 'UTC'")  # fmt: skip
    return call.node(t.INT64, [convert(arg, both) for arg in pair], part)


_DIFFERENCES: dict[str, Part] = {
    "year": lambda x: x.dt.year().cast(pl.Int64),
    "decade": lambda x: x.dt.year().cast(pl.Int64) // 10,
    "century": lambda x: x.dt.year().cast(pl.Int64) // 100,
    "quarter": lambda x: x.dt.year().cast(pl.Int64) * 4 + x.dt.quarter(),
    "month": lambda x: x.dt.year().cast(pl.Int64) * 12 + x.dt.month(),
    "day": lambda x: x.dt.date().to_physical().cast(pl.Int64),
}


def _diff(node: Node, start: pl.Expr, end: pl.Expr) -> Lowered | pl.Expr:
    """The number of boundaries of the part in between. Weeks are whole weeks, as in DuckDB."""
    part, type_ = str(node.value), node.args[0].type
    if part in _DIFFERENCES or part == "week":
        count = _DIFFERENCES["day" if part == "week" else part]
        apart = count(local(end, type_)) - count(local(start, type_))
        return apart.truncdiv(pl.lit(7, dtype=pl.Int64)) if part == "week" else apart
    micros = MICROSECONDS[part]
    (first, rate), (last, _) = _ticks(start, type_), _ticks(end, type_)
    if rate * micros >= 1_000_000:
        step = rate * micros // 1_000_000
        return last // step - first // step
    apart = last - first
    factor = 1_000_000 // (rate * micros)
    ticks = apart * factor
    return Lowered(ticks, fail_where(ticks // factor != apart, rowerrors.OVERFLOW))


def _ofmoment_of(result: DataType) -> Resolver:
    """For a function of one date or timestamp whose result has the same type."""

    def resolve(call: Call) -> Node:
        call.arity(1, 1)
        return call.node(result, [moment_of(call, 0)])

    return resolve


def _last_day(node: Node, x: pl.Expr) -> pl.Expr:
    return local(x, node.args[0].type).dt.date().dt.month_end()


def _named(pattern: str) -> Callable[[Node, pl.Expr], pl.Expr]:
    return lambda node, x: local(x, node.args[0].type).dt.strftime(pattern)


_TS = "TIMESTAMP '2024-02-29 13:45:30.25'"


def _add_part(name: str, text: str, value: int, *aliases: str) -> None:
    example: Example = (f"{name}({_TS})", value)
    register(name, f"{name}(at: date | timestamp) -> int64", f"The {text}.", example, group="date",
             resolve=_resolve_part, aliases=aliases, sql={"duckdb": name + "({0})"})  # fmt: skip


register("now", "now() -> timestamp[us, UTC]", "The time the batch left its source; a replay gives the same.",
         group="date", lower=lambda node: pl.col(NOW_COLUMN), needs=[NOW_COLUMN], aliases=["current_timestamp", "get_current_timestamp"])  # fmt: skip
register("current_date", "current_date() -> date", "The day of now(), in UTC.", group="date",
         lower=lambda node: pl.col(NOW_COLUMN).dt.date(), needs=[NOW_COLUMN], aliases=["today"])  # fmt: skip
for _name, _text, _value, _aliases in (
    ("year", "year", 2024, ()),
    ("quarter", "quarter, from 1 to 4", 1, ()),
    ("month", "month, from 1 to 12", 2, ()),
    ("week", "ISO week of the year", 9, ("weekofyear",)),
    ("isoyear", "year that the ISO week belongs to", 2024, ()),
    ("yearweek", "ISO year and week, as 202409", 202409, ()),
    ("day", "day of the month", 29, ("dayofmonth",)),
    ("dayofweek", "day of the week, from Sunday as 0", 4, ("weekday",)),
    ("isodow", "day of the week, from Monday as 1", 4, ()),
    ("dayofyear", "day of the year", 60, ()),
    ("decade", "decade, 202 for the 2020s", 202, ()),
    ("century", "century", 21, ()),
    ("hour", "hour", 13, ()),
    ("minute", "minute", 45, ()),
    ("second", "second, without its fraction", 30, ()),
    ("millisecond", "second in milliseconds, 30250 for 30.25", 30250, ()),
    ("microsecond", "second in microseconds", 30250000, ()),
):
    _add_part(_name, _text, _value, *_aliases)
register("date_part", "date_part(part: const string, at: date | timestamp) -> int64", "A part of a date or time; also EXTRACT(part FROM at).",
         (f"date_part('hour', {_TS})", 13), (f"EXTRACT(month FROM {_TS})", 2),
         group="date", resolve=_resolve_part, lower=_part, aliases=["datepart"])  # fmt: skip
register("epoch", "epoch(at: date | timestamp) -> float64", "Seconds since 1970.", (f"epoch({_TS})", 1709214330.25),
         group="date", resolve=_resolve_epoch, lower=_epoch_seconds)  # fmt: skip
for _name, _rate, _text in (
    ("epoch_ms", 1000, "Milliseconds"),
    ("epoch_us", 1_000_000, "Microseconds"),
    ("epoch_ns", 1_000_000_000, "Nanoseconds"),
):
    register(_name, f"{_name}(at: date | timestamp) -> int64", f"{_text} since 1970."
             + (" Of a number, the timestamp." if _name == "epoch_ms" else ""), (f"{_name}(DATE '1970-01-02')", 86_400 * _rate),
             group="date", resolve=_resolve_epoch, lower=_epoch(_rate))  # fmt: skip
register("date_trunc", "date_trunc(part: const string, at: date | timestamp) -> timestamp", "The begin of the hour, day, week, month, ... it is in.",
         (f"CAST(date_trunc('month', {_TS}) AS string)", "2024-02-01 00:00:00"), group="date", resolve=_resolve_trunc, lower=_trunc, aliases=["datetrunc"])  # fmt: skip
register("date_diff", "date_diff(part: const string, start: timestamp, end: timestamp) -> int64", "How many boundaries of the part lie between.",
         ("date_diff('day', TIMESTAMP '2024-01-01 23:00:00', TIMESTAMP '2024-01-02 01:00:00')", 1), group="date", resolve=_resolve_diff, lower=_diff, aliases=["datediff"])  # fmt: skip
register("last_day", "last_day(at: date | timestamp) -> date", "The last day of the month.", ("CAST(last_day(DATE '2024-02-03') AS string)", "2024-02-29"),
         group="date", resolve=_ofmoment_of(t.DATE), lower=_last_day)  # fmt: skip
register("dayname", "dayname(at: date | timestamp) -> string", "The day's English name.", ("dayname(DATE '2024-02-29')", "Thursday"),
         group="date", resolve=_ofmoment_of(t.STRING), lower=_named("%A"))  # fmt: skip
register("monthname", "monthname(at: date | timestamp) -> string", "The month's English name.", ("monthname(DATE '2024-02-29')", "February"),
         group="date", resolve=_ofmoment_of(t.STRING), lower=_named("%B"))  # fmt: skip
