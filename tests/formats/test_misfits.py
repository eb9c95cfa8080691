"""The messages for many fields at once are the messages for each field."""

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
    messages = frame.select(misfits("x", type_, pl.col("x"))).to_series().to_list()
    assert messages == [misfit("x", type_, text) for text in texts]


def test_bad_rows_are_a_sequence_of_rows():
    rows = [
        BadRow(3, "E0501", "no", "x,y", "a.csv line 5"),
        BadRow(7, "E0502", "few", "x", "a.csv line 9"),
    ]
    bad_rows = BadRows.of(rows)
    assert [*bad_rows] == rows
    assert (bad_rows[0], bad_rows[-1], len(bad_rows), [*bad_rows[1:]]) == (
        rows[0],
        rows[1],
        2,
        rows[1:],
    )
    assert BadRows.of(bad_rows) is bad_rows
    assert not BadRows.of([])
