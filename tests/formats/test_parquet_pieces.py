"""Parquet files joined from pieces: every reader sees what was written."""

from __future__ import annotations

import io
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing.parametric import dataframes

from dataflare.errors import DataError
from dataflare.formats.parquet_footer import MAGIC, row_groups, shifted_groups, take_apart
from dataflare.formats.parquet_write import ParquetEncoder, ParquetFooter
from dataflare.formats.table_read import parquet_pieces
from dataflare.formats.thrift import Reader, write_struct

NESTED = pl.DataFrame(
    {
        "id": [1, 2, None],
        "text": ["a", None, "é"],
        "at": [
            datetime(2024, 1, 1, tzinfo=UTC),
            None,
            datetime(1969, 1, 1, tzinfo=UTC),
        ],
        "tags": [["x", None], [], None],
        "who": [{"name": "n", "ages": [1]}, None, {"name": None, "ages": None}],
        "price": pl.Series(["1.50", None, "-3.25"]).cast(pl.Decimal(10, 2)),
        "raw": [b"\x00\xff", b"", None],
        "flag": [True, None, False],
        "f": [1.5, float("nan"), None],
    }
)


def join(path: Path, frames: list[pl.DataFrame], compression: str = "zstd") -> ParquetFooter:
    encoder, footer = ParquetEncoder(compression), ParquetFooter()
    with path.open("wb") as file:
        file.write(MAGIC)
        for frame in frames:
            piece = encoder.encode(frame)
            footer.add(piece, file.tell())
            if piece.rows:
                file.write(piece.body)
        file.write(footer.end())
    return footer


@pytest.mark.parametrize("compression", ["zstd", "snappy", "lz4", "gzip", "uncompressed"])
def test_three_readers_see_the_same_rows(tmp_path, compression):
    path = tmp_path / "a.parquet"
    frames = [NESTED, NESTED.head(0), NESTED.reverse(), NESTED.head(1)]
    whole = pl.concat(frames)
    join(path, frames, compression)
    assert pl.read_parquet(path).equals(whole)
    assert pl.from_arrow(pq.read_table(path)).equals(whole)
    ducks = duckdb.sql(f"select * from '{path}'").pl()
    assert ducks.with_columns(pl.col("at").dt.convert_time_zone("UTC")).equals(whole)
    assert [g.rows for g in row_groups(path)] == [3, 3, 1]


def test_statistics_survive_and_skip_row_groups(tmp_path):
    path = tmp_path / "a.parquet"
    frames = [pl.DataFrame({"i": range(n, n + 1000)}) for n in range(0, 5000, 1000)]
    join(path, frames)
    metadata = pq.ParquetFile(path).metadata
    assert metadata.num_rows == 5000
    for number in range(5):
        statistics = metadata.row_group(number).column(0).statistics
        assert (statistics.min, statistics.max) == (number * 1000, number * 1000 + 999)
        assert metadata.row_group(number).column(0).data_page_offset < path.stat().st_size
    assert duckdb.sql(f"select count(*) from '{path}' where i >= 4500").fetchall() == [(500,)]
    assert pl.scan_parquet(path).filter(pl.col("i") == 4999).collect().height == 1


def test_a_file_without_rows_has_its_schema(tmp_path):
    path = tmp_path / "a.parquet"
    join(path, [NESTED.head(0)])
    assert pl.read_parquet(path).equals(NESTED.head(0))
    assert pq.read_table(path).num_rows == 0
    assert duckdb.sql(f"select count(*) from '{path}'").fetchall() == [(0,)]
    assert row_groups(path) == []


@given(
    st.lists(
        dataframes(
            cols=3, max_size=20, excluded_dtypes=[pl.Null, pl.Object, pl.Categorical, pl.Enum]
        ),
        min_size=1,
        max_size=1,
    ),
    st.integers(1, 4),
)
def test_any_frame_survives(tmp_path_factory, frames, copies):
    path = tmp_path_factory.mktemp("any") / "a.parquet"
    join(path, frames * copies)
    whole = pl.concat(frames * copies)
    assert pl.read_parquet(path).equals(whole.cast(dict(pl.read_parquet_schema(path))))


def test_pieces_with_other_columns_are_refused(tmp_path):
    with pytest.raises(ValueError, match="different schemas"):
        join(tmp_path / "a.parquet", [pl.DataFrame({"a": [1]}), pl.DataFrame({"a": ["x"]})])


@pytest.mark.parametrize("chunks_start", [True, False], ids=["chunks start", "no chunk start"])
def test_page_indexes_are_where_the_footer_says(chunks_start: bool) -> None:
    """Writers may leave out where a column chunk starts, as 0: its indexes are moved all the same."""
    chunk_start, offset_index, offset_length, column_index, column_length = 2, 4, 5, 6, 7
    buffer = io.BytesIO()
    pl.DataFrame({"n": range(50_000), "t": ["x", "y"] * 25_000}).write_parquet(buffer)
    encoded = buffer.getvalue()
    piece = take_apart(encoded)
    first_group = chunks(piece.footer[4][1][1][0])
    for chunk in first_group:
        assert at(chunk, chunk_start)
        if not chunks_start:
            chunk[chunk_start] = (chunk[chunk_start][0], 0)
    before = 1_234
    (group,) = shifted_groups(piece, before)
    file = bytes(before) + bytes(piece.body)
    for old, new in zip(first_group, chunks(Reader(group).struct()), strict=True):
        for place, length in ((offset_index, offset_length), (column_index, column_length)):
            there = file[at(new, place) :][: at(new, length)]
            assert there == encoded[at(old, place) :][: at(old, length)] != b""
        moved = before - len(MAGIC) if chunks_start else 0
        assert at(new, chunk_start) == at(old, chunk_start) + moved


def chunks(group: Any) -> list[Any]:
    return group[1][1][1]


def at(fields: Any, number: int) -> int:
    return fields[number][1]


def test_a_footer_survives_reading_and_writing():
    piece = take_apart(_encoded(NESTED))
    out = bytearray()
    write_struct(piece.footer, out)
    assert Reader(bytes(out)).struct() == piece.footer
    start = len(_encoded(NESTED)) - 8 - len(out)
    assert _encoded(NESTED)[start:-8] == bytes(out)


def _encoded(frame: pl.DataFrame) -> bytes:
    import io

    out = io.BytesIO()
    frame.write_parquet(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"PAR1", "it is too short"),
        (b"PAR1" + b"x" * 50, "it does not end as a Parquet file does"),
        (b"PAR1" + b"\xff\xff\xff\x7fPAR1", "its footer is longer than the file"),
    ],
)
def test_a_damaged_file_says_so(tmp_path, content, why):
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        row_groups(path)
    assert caught.value.code == "E0505"
    assert str(caught.value) == f"{path} is not a sound Parquet file: {why}"


def test_reading_pieces_gathers_small_row_groups_and_divides_giants(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"i": range(1_250_000)}).write_parquet(path, row_group_size=10_000)
    small = parquet_pieces(path)
    assert [p.rows for p in small] == [100_000] * 12 + [50_000]
    pl.DataFrame({"i": range(2_300_000)}).write_parquet(path, row_group_size=2_300_000)
    giant = parquet_pieces(path)
    assert [p.rows for p in giant] == [1_000_000, 1_000_000, 300_000]
    for pieces in (small, giant):
        ends = [p.start + p.rows for p in pieces]
        assert [p.start for p in pieces] == [0, *ends[:-1]]


def test_wide_row_groups_are_not_gathered_beyond_a_size(tmp_path):
    path = tmp_path / "a.parquet"
    letters = random.Random(1)
    text = ["".join(letters.choices("abcdefgh", k=4_000)) for _ in range(1_000)]
    pl.DataFrame({"t": text * 40}).write_parquet(path, row_group_size=5_000, compression="zstd")
    sizes = [p.num_bytes for p in parquet_pieces(path)]
    assert max(sizes) <= 64 << 20
    assert sum(p.rows for p in parquet_pieces(path)) == 40_000
