"""The meaning is DuckDB's: drawn expressions over drawn rows give the same, errors included."""

from __future__ import annotations

import polars as pl
import pytest
from generate import expressions, frames
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import differences

KINDS = ("int", "double", "dec", "text", "bool", "date", "ts")


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_gives_what_duckdb_gives(kind: str) -> None:
    @settings(settings.get_profile("expr"))
    @given(data=st.data())
    def law(data: st.DataObject) -> None:
        text = data.draw(expressions(kind))
        rows: pl.DataFrame = data.draw(frames())
        assert differences(text, rows) == []

    law()
