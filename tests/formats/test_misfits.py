"""What is said of many fields at once is what is said of each."""

from __future__ import annotations

import polars as pl
from hypothesis import example, given
from hypothesis import strategies as st

from dataflare.formats.misread import misfit, misfits
from dataflare.model import types as t
from dataflare.model.bad_rows import BadRow, BadRows

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)


@given(
    st.lists(TEXTS, min_size=1, max_size=20), st.sampled_from([t.INT64, t.BOOL, t.TIMESTAMP_UTC])
)
@example(
    ["", "it's", 'a "b"', "back\\slash", "tab\t", "é", "x" * 80, "x" * 81, "\x7f", "\xa0"], t.INT64
)
def test_misfits_of_a_column_are_those_of_its_values(texts, type_):
    frame = pl.DataFrame({"x": texts}, schema={"x": pl.String})
    said = frame.select(misfits("x", type_, pl.col("x"))).to_series().to_list()
    assert said == [misfit("x", type_, text) for text in texts]


def test_bad_rows_are_a_sequence_of_rows():
    rows = [
        BadRow(3, "E0501", "no", "x,y", "a.csv line 5"),
        BadRow(7, "E0502", "few", "x", "a.csv line 9"),
    ]
    kept = BadRows.of(rows)
    assert [*kept] == rows
    assert (kept[0], kept[-1], len(kept), [*kept[1:]]) == (rows[0], rows[1], 2, rows[1:])
    assert BadRows.of(kept) is kept
    assert not BadRows.of([])
