"""Every documented difference from DuckDB is there, and drawn expressions find no other."""

from __future__ import annotations

import duckdb
import fuzz
import polars as pl
import pytest
from oracle import connection

from dataflare.errors import ExpressionError
from dataflare.expr import check
from dataflare.expr.differences import DIFFERENCES, Difference
from dataflare.model.types import Schema


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
