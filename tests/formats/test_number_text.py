"""Numbers of a kind that appears only after the sample: kept exactly, or refused with advice."""

from __future__ import annotations

import csv
import io
from decimal import Decimal, localcontext

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataflare.formats.csv_read import CsvDialect, CsvPlan
from dataflare.formats.number_text import altered
from dataflare.formats.text_types import TextColumn
from dataflare.model.types import FLOAT64, INT64, STRING

NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.integers(2**53 - 4, 2**53 + 4).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(0, 1000).map(lambda value: f"{value:.18e}"),
    st.decimals(-(10**9), 10**9, places=2).map(str),
    st.from_regex(r"\A-?[1-9][0-9]{0,22}\.[0-9]{1,22}\Z"),
    st.from_regex(r"\A[ \t]?[+-]?0[0-9]{0,6}(\.[0-9])?\Z"),
    st.from_regex(r"\A\+[1-9][0-9]{0,12}\Z"),
)
TEXTS = st.one_of(NUMBERS, st.text('a,"\n 0+1', max_size=20), st.just(""))


def model(text: str, *, is_float: bool) -> bool:
    """Whether the number is altered, by Python's decimals."""
    text = text.strip(" \t")
    digits = text.lstrip("-")
    if text.startswith("+") or (digits[:1] == "0" and digits[1:2].isdigit()):
        return True
    if not is_float or len(text) < 16:
        return False
    with localcontext(prec=1000):
        number, value = Decimal(text), Decimal(float(text))
        count = len(number.as_tuple().digits)
        return count > 15 and Decimal(f"{value:.{count - 1}e}") != number


@given(st.lists(NUMBERS, min_size=1, max_size=8), st.booleans())
@example(["9007199254740993", "9007199254740992", "0.30000000000000004"], True)
def test_a_number_is_altered_where_writing_it_again_gives_another(texts, is_float):
    is_altered = pl.DataFrame({"a": texts}).select(altered(pl.col("a"), is_float=is_float))["a"]
    assert is_altered.to_list() == [model(text, is_float=is_float) for text in texts]


@given(
    st.lists(st.tuples(TEXTS, NUMBERS, NUMBERS), min_size=1, max_size=10),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.permutations(range(3)),
    st.sampled_from(["\n", "\r\n"]),
)
def test_a_chunk_keeps_each_number_or_refuses_its_row(rows, quoting, order, line_end):
    """For any places of the number columns, with and without quotes, in the quick and the slow
    way."""
    types = [STRING, INT64, FLOAT64]
    columns = tuple(TextColumn("abc"[place], types[place]) for place in order)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=line_end, quoting=quoting)
    writer.writerows([[row[place] for place in order] for row in rows])
    data = out.getvalue().encode()
    plan = CsvPlan(CsvDialect(), columns, tuple("abc"))

    def is_refused(row: tuple[str, str, str]) -> bool:
        whole = pl.Series([row[1].strip(" \t")]).cast(pl.Int64, strict=False).is_null()[0]
        return (
            whole
            or model(row[1], is_float=False)
            or model(row[2], is_float=True)
            or abs(float(row[2])) == float("inf")
        )

    refused = [is_refused(row) for row in rows]
    good_rows = [
        (row[0], int(row[1]), float(row[2]))
        for row, no in zip(rows, refused, strict=True)
        if not no
    ]
    result = plan.salvage(data, str)
    assert [bad.row for bad in result.bad] == [i for i, no in enumerate(refused) if no]
    assert [(a or "", b, c) for a, b, c in result.good.rows()] == good_rows
    try:
        quick = plan.scan(data).collect()
    except pl.exceptions.PolarsError:
        return  # The quick way may leave a sound chunk to the slow way.
    assert not any(refused)
    assert [(a or "", b, c) for a, b, c in quick.rows()] == good_rows


@pytest.mark.parametrize("text", ["02116", "+4915112345678"])
def test_the_message_names_the_way_out(text):
    plan = CsvPlan(CsvDialect(), (TextColumn("zip", INT64),), ("zip",))
    [bad] = plan.salvage(f"1\n{text}\n".encode(), str).bad
    assert (bad.row, bad.code) == (1, "E0501")
    assert text in bad.message
    assert "schema: {zip: string}" in bad.message


def test_a_declared_number_is_read_as_cast_reads_it():
    plan = CsvPlan(CsvDialect(), (TextColumn("n", INT64, declared=True),), ("n",))
    assert plan.scan(b"02116\n+7\n").collect()["n"].to_list() == [2116, 7]
