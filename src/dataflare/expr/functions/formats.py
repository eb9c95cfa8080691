"""strftime and strptime: DuckDB's directives, checked when the workflow is planned."""

from __future__ import annotations

import re

import polars as pl

from dataflare.expr import problems, rowerrors
from dataflare.expr.calendar import in_range
from dataflare.expr.check import Call
from dataflare.expr.conversions import convert
from dataflare.expr.functions.temporal import moment_of
from dataflare.expr.lowered import Lowered, fail_where
from dataflare.expr.registry import register
from dataflare.expr.tree import Node
from dataflare.model import types as t

_WRITE = {
    **{f"%{c}": f"%{c}" for c in "aAbBdHIjmMpSuUVwWyYG%"},
    **{f"%-{c}": f"%-{c}" for c in "dHIjmMSy"},
    "%f": "%6f", "%g": "%3f", "%n": "%9f", "%z": "%z", "%Z": "%Z",
    "%c": "%Y-%m-%d %H:%M:%S", "%x": "%Y-%m-%d", "%X": "%H:%M:%S",
}  # fmt: skip
_READ = {
    **{f"%{c}": f"%{c}" for c in "aAbBdHIjmMpSyYz%"},
    **{f"%-{c}": f"%{c}" for c in "dHIjmMSy"},
    "%f": "%f", "%x": "%Y-%m-%d", "%X": "%H:%M:%S", "%c": "%Y-%m-%d %H:%M:%S",
}  # fmt: skip
_DIRECTIVE = re.compile(r"%-?.|%$", re.DOTALL)


def _translated(call: Call, place: int, table: dict[str, str], zoned: bool) -> str:
    """The literal format in Polars' directives. Raises ExpressionError (E0208) for an unknown one."""
    text = call.const(place, "the format")
    if not isinstance(text, str):
        raise call.fail("the format is a text", arg=place)

    def one(match: re.Match[str]) -> str:
        directive = table.get(match[0])
        if directive is None or (match[0] in ("%z", "%Z") and not zoned):
            problem = "needs a timestamp with a zone" if directive else "is not known"
            raise call.fail(
                f"the directive '{match[0]}' {problem}", arg=place, code=problems.BAD_LITERAL,
                notes=["for example: %Y-%m-%d %H:%M:%S.%f, %d/%m/%y, %I:%M %p, %b, %z"],
            )  # fmt: skip
        return directive

    return _DIRECTIVE.sub(one, text)


def _resolve_strftime(call: Call) -> Node:
    call.arity(2, 2)
    if call.args[0].is_literal and call.args[0].type.is_text and call.args[1].type.is_temporal:
        call.args.reverse()
    moment = moment_of(call, 0)
    if call.args[1].is_null:
        return Node("literal", t.STRING)
    if moment.type.name == "date":
        moment = convert(moment, t.TIMESTAMP)
    return call.node(
        t.STRING, [moment], _translated(call, 1, _WRITE, moment.type.timezone is not None)
    )


def _resolve_strptime(call: Call) -> Node:
    call.arity(2, 2)
    type_ = call.args[0].type
    if not (type_.is_text or type_.name == "null"):
        raise call.fail(f"{call.function.name}() expects string, not {type_}", arg=0)
    if call.args[1].is_null:
        return Node("literal", t.TIMESTAMP)
    pattern = _translated(call, 1, _READ, True).replace(".%f", "%.f").replace("%f", "%6f")
    if not re.search(r"%[dj]", pattern) or ("%Y" not in pattern and "%y" not in pattern):
        raise call.fail("the format must have a complete date: year, month and day", arg=1,
                        code=problems.BAD_LITERAL)  # fmt: skip
    zoned = "%z" in pattern
    return call.node(
        t.TIMESTAMP_UTC if zoned else t.TIMESTAMP, [convert(call.args[0], t.STRING)], pattern
    )


def _strptime(node: Node, text: pl.Expr) -> Lowered | pl.Expr:
    moment = text.str.strip_chars_start(" ").str.to_datetime(
        str(node.value), strict=False, time_unit="us", time_zone=node.type.timezone
    )
    if "%y" in str(node.value):  # In POSIX and DuckDB, %y 69 is 1969; in Polars it is 2069
        moment = (
            pl.when(moment.dt.year() == 2069).then(moment.dt.offset_by("-100y")).otherwise(moment)
        )
    if node.op == "try_strptime":
        return moment
    return Lowered(moment, fail_where(moment.is_null() & text.is_not_null(), rowerrors.DATE))


def _resolve_to_date(call: Call) -> Node:
    call.arity(1, 2)
    if len(call.args) == 1:
        if not (
            call.args[0].type.is_text or call.args[0].type.name in ("timestamp", "date", "null")
        ):
            raise call.fail(f"to_date() expects string, not {call.args[0].type}", arg=0)
        return Node("cast", t.DATE, (call.args[0],), False)
    parsed = Node(
        "strptime", t.TIMESTAMP, _resolve_strptime(call).args, _resolve_strptime(call).value
    )
    return Node("cast", t.DATE, (parsed,), False)


register("strftime", "strftime(at: date | timestamp, format: const string) -> string", "Written in a format.",
         ("strftime(DATE '2024-02-29', '%d/%m/%Y')", "29/02/2024"), group="date", resolve=_resolve_strftime,
         lower=lambda node, x: in_range(x, node.args[0].type).dt.strftime(node.value))  # fmt: skip
register("strptime", "strptime(text: string, format: const string) -> timestamp[us]", "Read in a format; with %z an instant in UTC.",
         ("CAST(strptime('29/02/2024', '%d/%m/%Y') AS date) = DATE '2024-02-29'", True), group="date", resolve=_resolve_strptime, lower=_strptime)  # fmt: skip
register("try_strptime", "try_strptime(text: string, format: const string) -> timestamp[us]", "The same, NULL where it does not fit.",
         ("try_strptime('nonsense', '%Y-%m-%d')", None), group="date", resolve=_resolve_strptime, lower=_strptime)  # fmt: skip
register("to_date", "to_date(text: string, [format: const string]) -> date", "The date of a text.", ("CAST(to_date('29.02.2024', '%d.%m.%Y') AS string)", "2024-02-29"),
         group="date", resolve=_resolve_to_date)  # fmt: skip
