"""The batch: shared without a copy, exchanged with any Arrow library."""

from __future__ import annotations

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from dataflare.model.batch import KIND_COLUMN, RowKind, SharedDataBatch
from dataflare.model.progress import Watermark
from dataflare.model.types import Schema


@pytest.fixture
def batch() -> SharedDataBatch:
    frame = pl.DataFrame({"n": [1, 2, 3, 4], "t": ["a", None, "c", "d"]})
    return SharedDataBatch(frame, metadata={"split": "s1"}, watermark=Watermark(5))


def place(batch: SharedDataBatch) -> int:
    """Where the first value of the column n lies in memory."""
    array = batch.frame["n"].to_arrow()
    return int(array.buffers()[1].address) + 8 * array.offset


def test_a_clone_shares_memory_and_all_else(batch: SharedDataBatch):
    clone = batch.clone()
    assert place(clone) == place(batch)
    assert (clone.metadata, clone.watermark) == (batch.metadata, batch.watermark)
    assert clone.frame.equals(batch.frame)


def test_a_slice_shares_memory(batch: SharedDataBatch):
    part = batch.slice(1, 2)
    assert part.frame["n"].to_list() == [2, 3]
    assert place(part) == place(batch) + 8
    assert batch.slice(3).num_rows == 1
    assert batch.slice(9).num_rows == 0


def test_slices_make_the_whole_again(batch: SharedDataBatch):
    whole = SharedDataBatch.merge([batch.slice(0, 1), batch.slice(1, 2), batch.slice(3)])
    assert whole.frame.equals(batch.frame)
    assert SharedDataBatch.merge([batch]) is batch


def test_of_merged_watermarks_the_greatest_counts_and_of_facts_the_last(batch: SharedDataBatch):
    later = batch.with_watermark(Watermark(9)).with_metadata(split="s2", file="f")
    none = batch.with_watermark(None)
    merged = SharedDataBatch.merge([later, batch, none])
    assert merged.watermark == Watermark(9)
    assert dict(merged.metadata) == {"split": "s1", "file": "f"}
    assert SharedDataBatch.merge([none, none]).watermark is None


def test_rows_change_and_the_rest_stays(batch: SharedDataBatch):
    kept = batch.filter(pl.col("n") > 2).map(lambda frame: frame.select("n"))
    assert kept.frame["n"].to_list() == [3, 4]
    assert (kept.watermark, kept.metadata["split"]) == (Watermark(5), "s1")
    assert batch.num_rows == 4


def test_metadata_cannot_be_changed_in_place(batch: SharedDataBatch):
    with pytest.raises(TypeError):
        batch.metadata["split"] = "other"  # type: ignore[index]
    assert batch.with_metadata(more=1).metadata == {"split": "s1", "more": 1}
    assert batch.metadata == {"split": "s1"}


def test_kinds_are_no_column_of_the_user(batch: SharedDataBatch):
    assert (batch.is_changelog, batch.kinds) == (False, None)
    changes = batch.with_kinds(pl.Series([RowKind.INSERT, RowKind.DELETE, 1, 2]))
    assert changes.is_changelog
    assert changes.kinds is not None
    assert changes.kinds.to_list() == [0, 3, 1, 2]
    assert changes.kinds.dtype == pl.UInt8
    assert changes.schema == batch.schema == Schema.of({"n": "int64", "t": "string"})


def test_rows_that_join_a_changelog_are_inserts(batch: SharedDataBatch):
    changes = batch.with_kinds(pl.repeat(RowKind.DELETE, 4, eager=True))
    merged = SharedDataBatch.merge([batch, changes])
    assert merged.frame[KIND_COLUMN].to_list() == [0, 0, 0, 0, 3, 3, 3, 3]


def test_bytes_follow_the_rows(batch: SharedDataBatch):
    assert batch.num_bytes == batch.num_bytes > 0
    assert batch.slice(0, 0).num_bytes < batch.num_bytes
    assert len(batch) == batch.num_rows == 4
    assert repr(batch) == "SharedDataBatch(4 rows, n, t)"


def test_pyarrow_takes_it_and_gives_it_back(batch: SharedDataBatch):
    table = pa.table(batch)
    assert table.to_pydict() == batch.frame.to_dict(as_series=False)
    assert table.column("n").chunk(0).buffers()[1].address == place(batch)
    back = SharedDataBatch.from_arrow(table, watermark=Watermark(1))
    assert back.frame.equals(batch.frame)
    assert place(back) == place(batch)
    assert back.watermark == Watermark(1)
    reader = pa.RecordBatchReader.from_stream(batch)
    assert SharedDataBatch.from_arrow(reader).frame.equals(batch.frame)


def test_duckdb_takes_it_and_gives_it_back(batch: SharedDataBatch):
    with duckdb.connect() as database:
        found = database.sql("SELECT n * 2 AS m, t FROM batch WHERE t IS NOT NULL ORDER BY n")
        back = SharedDataBatch.from_arrow(found)
    assert back.frame.rows() == [(2, "a"), (6, "c"), (8, "d")]
