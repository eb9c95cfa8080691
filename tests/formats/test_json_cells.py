"""Lists and structs in cells of CSV keep every digit, or their row is refused."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.formats.json_cells import json_cells
from dataflare.formats.text_types import TextColumn, loose, strict
from dataflare.model.types import parse_type

READ = {
    "[1,2]": ("list<int64>", [1, 2]),
    " [1, null] ": ("list<int64>", [1, None]),
    "[]": ("list<int64>", []),
    "[1.005, 12345678901234567890.5]": (
        "list<decimal(30, 2)>",
        [Decimal("1.01"), Decimal("12345678901234567890.50")],
    ),
    '[1.50, "x"]': ("list<string>", ["1.50", "x"]),
    '["2024-01-01T23:59:59"]': ("list<timestamp[us]>", [dt.datetime(2024, 1, 1, 23, 59, 59)]),
    '{"x": 1}': ("struct<x: int64>", {"x": 1}),
    '{"x": 1, "x": 2}': ("struct<x: int64>", {"x": 1}),
    '{"x": 1, "y": null}': ("struct<x: int64>", {"x": 1}),
    '[{"x": [9007199254740993]}]': ("list<struct<x: list<int64>>>", [{"x": [9007199254740993]}]),
}
REFUSED = {
    "[1,2.5]": "list<int64>",
    "[1,x]": "list<int64>",
    '[1], "b": [2]': "list<int64>",
    "[300]": "list<int8>",
    '["2024-01-01T23:59:60"]': "list<timestamp[us]>",
    '{"x": 1, "y": 2}': "struct<x: int64>",
    "[1]": "struct<x: int64>",
    "7": "list<int64>",
    "null": "list<int64>",
}


@pytest.mark.parametrize("text", READ)
def test_a_cell_is_read_exactly(text: str) -> None:
    type_, value = READ[text]
    column = TextColumn("c", parse_type(type_), declared=True)
    frame = pl.DataFrame({"c": [None, text, text]})
    expr = strict(column)
    assert expr is not None
    for each in (expr, loose(column)):
        result = frame.select(each)["c"]
        assert result.dtype == column.type.to_polars()
        assert result.to_list() == [None, value, value]


@pytest.mark.parametrize("text", REFUSED)
def test_a_cell_that_does_not_fit_is_refused_and_no_other(text: str) -> None:
    column = TextColumn("c", parse_type(REFUSED[text]), declared=True)
    good = "[]" if column.type.name == "list" else "{}"
    frame = pl.DataFrame({"c": [text, good]})
    first, second = frame.select(loose(column))["c"].to_list()
    assert first is None
    assert second in ([], {"x": None})
    expr = strict(column)
    assert expr is not None
    with pytest.raises(pl.exceptions.PolarsError):
        frame.select(expr)


def test_cells_of_which_none_can_be_read() -> None:
    assert (
        json_cells(parse_type("list<int64>"), pl.Series("c", ["x", None])).to_list() == [None] * 2
    )


NUMBERS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.none() | st.lists(st.none() | NUMBERS, max_size=4), max_size=6))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_lists_of_integers_come_back(values: list[Any]) -> None:
    texts = pl.Series("c", [v if v is None else json.dumps(v) for v in values], pl.String)
    assert json_cells(parse_type("list<int64>"), texts).to_list() == values
