"""Digits that a float64 has no place for: the column is text, or a later row is bad; never in silence."""

from __future__ import annotations

from decimal import Decimal

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dataflare.formats.ndjson_read import NdjsonPlan, sniff
from dataflare.formats.text_types import infer, strict

FRACTIONS = st.from_regex(r"-?(0|[1-9][0-9]{0,12})\.[0-9]{1,22}", fullmatch=True)


@given(st.lists(FRACTIONS, min_size=1, max_size=3))
@example(["123456789.123456789", "1.5"])
@example(["0.30000000000000004"])
@example(["0.1000000000000000055511151231257827"])
@settings(max_examples=200, deadline=None)
def test_a_column_has_the_type_that_it_has_in_csv(numbers: list[str]) -> None:
    [json] = sniff(["\n".join(f'{{"a":{number}}}' for number in numbers).encode()])
    [csv] = infer(pl.DataFrame({"a": numbers}))
    assert json.type == csv.type


@pytest.mark.parametrize(
    "line", ['{"a":%s}', '{"a": %s}', '{"s":{"b":[1.5,%s]}}', '{"s":{"b":[%s]}}']
)  # fmt: skip
@given(FRACTIONS)
@settings(max_examples=60, deadline=None)
def test_a_later_number_is_kept_to_17_digits_or_bad(line: str, number: str) -> None:
    sample = b'{"a":1.5,"s":{"b":[1.5]}}'
    columns = tuple(sniff([sample]))
    plan = NdjsonPlan(columns, ("a", "s"))
    data = sample + b"\n" + (line % number).encode()
    bad = plan.salvage(data, str).bad
    try:
        plan.scan(data).collect()
    except pl.exceptions.PolarsError:
        return
    assert not list(bad)
    exact, nearest = Decimal(number), Decimal(float(number))
    assert abs(exact - nearest) <= abs(exact) * Decimal("1.2e-16")
    digits = len(exact.as_tuple().digits)
    short = Decimal(f"{float(number):.6f}")
    assert digits <= 18 or abs(short - exact) <= abs(exact) * Decimal("1e-15")


def test_a_declared_float_is_the_nearest() -> None:
    from dataflare.formats.text_types import TextColumn
    from dataflare.model.types import FLOAT64

    plan = NdjsonPlan((TextColumn("a", FLOAT64, declared=True),), ("a",))
    rows = plan.scan(b'{"a":123456789.123456789}\n{"a":1.5}').collect()
    assert rows["a"].to_list() == [123456789.123456789, 1.5]


def test_a_later_number_beyond_a_float_is_a_bad_row() -> None:
    columns = tuple(sniff([b'{"a":1.5}']))
    data = b'{"a":1.5}\n{"a":123456789.123456789}\n{"a":0.30000000000000004}'
    found = NdjsonPlan(columns, ("a",)).salvage(data, str)
    assert [(bad.row, bad.code) for bad in found.bad] == [(1, "E0501")]
    assert found.good["a"].to_list() == [1.5, 0.30000000000000004]
    with pytest.raises(pl.exceptions.PolarsError):
        NdjsonPlan(columns, ("a",)).scan(data).collect()
    [text] = infer(pl.DataFrame({"a": ["1.5"]}))
    csv = pl.DataFrame({"a": ["123456789.123456789"]})
    with pytest.raises(pl.exceptions.PolarsError):
        csv.select(strict(text))
