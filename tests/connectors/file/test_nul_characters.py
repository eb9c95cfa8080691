"""A NUL character in a text: kept where the format holds it, refused where its readers would not take it."""

from __future__ import annotations

import polars as pl
import pytest
from file_kit import names, read, write

from dataflare.errors import DataError

ROWS = pl.DataFrame({"n": [1, 2], "t": ["plain", "a\0b"]})


@pytest.mark.parametrize("path", ["o.csv", "o.csv.gz", "parts"])
def test_csv_refuses_it(tmp_path, path):
    with pytest.raises(DataError) as caught:
        write({"path": path, "format": "csv"}, tmp_path, ROWS)
    assert (caught.value.code, caught.value.step) == ("E0504", "dst")
    assert "'t'" in caught.value.message
    assert "replace(t, chr(0), '')" in (caught.value.help or "")
    assert not [name for name in names(tmp_path) if name.endswith((".csv", ".csv.gz"))]


def test_csv_refuses_it_in_the_name_of_a_column(tmp_path):
    with pytest.raises(DataError) as caught:
        write("o.csv", tmp_path, pl.DataFrame({"a\0": [1]}))
    assert caught.value.code == "E0504"


@pytest.mark.parametrize("path", ["o.ndjson", "o.json", "o.parquet", "o.arrow"])
def test_the_others_hold_it(tmp_path, path):
    write(path, tmp_path, ROWS)
    assert read(path, tmp_path).frame.equals(ROWS)


def test_inside_a_list_it_is_escaped(tmp_path):
    write("o.csv", tmp_path, pl.DataFrame({"n": [1], "l": [["a\0b"]]}))
    again = read("o.csv", tmp_path, contract={"n": "int64", "l": "list<string>"})
    assert again.frame["l"].to_list() == [["a\0b"]]
