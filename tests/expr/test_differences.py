"""Every documented difference from DuckDB is there, and drawn expressions find no other."""

from __future__ import annotations

import re

import duckdb
import fuzz
import generate
import oracle
import polars as pl
import pytest
from oracle import connection

from dataflare.errors import ExpressionError
from dataflare.expr import check
from dataflare.expr.differences import DIFFERENCES, Difference
from dataflare.expr.registry import Function, functions
from dataflare.model.types import _PLAIN, _UNITS, Schema, parse_type


def here(text: str) -> str:
    try:
        lowered = check(text, Schema(())).lower()
    except ExpressionError:
        return "refused"
    row = pl.select(x=lowered.value, e=pl.lit(None) if lowered.error is None else lowered.error)
    value, error = row["x"].to_list()[0], row["e"].to_list()[0]
    return "error" if error is not None else str(value)


def there(text: str) -> str:
    try:
        return str(connection().sql(f"SELECT {text}").fetchall()[0][0])
    except duckdb.Error:
        return "error"


@pytest.mark.parametrize("each", DIFFERENCES, ids=lambda each: each.example[:30])
def test_each_documented_difference_is_one(each: Difference) -> None:
    assert here(each.example) == each.here
    if "any order" in each.duckdb:
        assert sorted(there(each.example)) == sorted(each.duckdb.partition(" in ")[0])
    else:
        assert there(each.example) == each.duckdb


@pytest.mark.parametrize("seed", range(4))
def test_drawn_expressions_find_no_other_difference(seed: int) -> None:
    """`make fuzz` draws as many as you like."""
    assert list(fuzz.found(seed, 500)) == []


# -- what is drawn ---------------------------------------------------------------------------------

_OPERATORS = {
    "case": "CASE ", "coalesce": "COALESCE(", "is_distinct": "IS <NOT ;>DISTINCT FROM", "struct_pack": "{'a':",
    "is_not_distinct": "IS <NOT ;>DISTINCT FROM", "is_null": " IS NULL", "is_true": "IS <NOT ;><TRUE;FALSE>",
    "is_false": "IS <NOT ;><TRUE;FALSE>", "make_interval": "INTERVAL (i8)", "negate": "(-(", "list_value": "[{int.}",
    "list_slice": "[<1;2;-2>:", "between": " BETWEEN ", "in": " IN (", "and": " AND ", "or": " OR ", "not": "(NOT ",
    "like": "LIKE ", "ilike": " ILIKE ", "<>": "<>", "<=": ";<=", ">=": ">=", "timezone": "AT TIME ZONE",
}  # fmt: skip


def test_every_function_is_drawn_or_left_out_for_a_reason() -> None:
    texts = " ".join([*generate.SAFE.values(), *generate.RISKY.values(), generate.COMMON])

    def is_drawn(function: Function) -> bool:
        if function.name in _OPERATORS:
            return _OPERATORS[function.name] in texts
        if function.group == "operator":
            return f" {function.name} " in texts or f"<{function.name};" in texts
        names = (function.name, *function.aliases)
        return any(re.search(rf"(?<![a-z_0-9]){re.escape(name)}\(", texts) for name in names)

    scalar = [each for each in functions() if each.group != "aggregate"]
    undrawn = {each.name for each in scalar if not is_drawn(each)}
    assert undrawn == set(generate.LEFT_OUT) - {"aggregates"}


def test_every_type_is_drawn_or_left_out_for_a_reason() -> None:
    drawn = {parse_type(text) for text in oracle.COLUMNS.values()}
    names = {type_.name for type_ in drawn}
    assert names == {*_PLAIN, "timestamp", "duration", "decimal", "list", "struct"}
    units = {f"{t.name}[{t.unit}]" for t in drawn if t.unit and not t.timezone}
    every = {f"{name}[{unit}]" for name in ("timestamp", "duration") for unit in _UNITS}
    assert every - units == set(generate.TYPES_LEFT_OUT)
