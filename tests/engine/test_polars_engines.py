"""Polars' streaming engine: published queries that it answered wrongly in 2026, and what chunks use it for.

It takes the scan of a chunk with the steps behind it. Work by key takes the in-memory engine, and a test of the
house says so. This file runs at each version of Polars: a query that fails here says which of the two must
change.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

STREAMING, IN_MEMORY = "streaming", "in-memory"
chance = random.Random(7)
ROWS = 100_000


def seldom_kept() -> tuple[pl.LazyFrame, Any]:
    """Groups of which a filter keeps no row have a count of 0."""
    keys = [chance.randrange(ROWS // 5) for _ in range(ROWS)]
    kept = [chance.choice((True, False)) for _ in range(ROWS)]
    expected = dict.fromkeys(keys, 0)
    for key, keep in zip(keys, kept, strict=True):
        expected[key] += keep
    frame = pl.LazyFrame({"key": keys, "kept": kept, "n": keys})
    count = pl.col("n").filter(pl.col("kept")).count()
    query = frame.group_by("key").agg(count.alias("count"), pl.col("n").unique().sum())
    return query.select("key", "count").sort("key"), sorted(expected.items())


def sums_over_groups() -> tuple[pl.LazyFrame, Any]:
    keys = [chance.randrange(500) for _ in range(ROWS)]
    values = [chance.randrange(10**6) if chance.random() < 0.9 else None for _ in range(ROWS)]
    total = dict.fromkeys(keys, 0)
    for key, value in zip(keys, values, strict=True):
        total[key] += value or 0
    frame = pl.LazyFrame({"key": keys, "value": values})
    return frame.select("key", pl.col("value").sum().over("key")), [(k, total[k]) for k in keys]


def two_lengths() -> tuple[pl.LazyFrame, Any]:
    frame = pl.LazyFrame({"a": [1, 2, 1, 3]}).group_by("a").agg(pl.len(), pl.len().alias("n"))
    return frame.sort("a"), [(1, 2, 2), (2, 1, 1), (3, 1, 1)]


def first_of_each_group() -> tuple[pl.LazyFrame, Any]:
    values = [chance.randrange(60) for _ in range(500)]
    frame = pl.LazyFrame({"a": values}).with_row_index("at").group_by("a").agg(pl.col("at").first())
    firsts = sorted(values.index(value) for value in set(values))
    return frame.select(pl.col("at").sort()), [(at,) for at in firsts]


def windows_of_months() -> tuple[pl.LazyFrame, Any]:
    times = [dt.datetime(2020, 1, 29, 23), dt.datetime(2020, 2, 26), dt.datetime(2020, 2, 29, 1)]
    frame = pl.LazyFrame({"t": times, "t2": times})
    windows = frame.group_by_dynamic("t", every="12h", period="1mo", include_boundaries=True)
    inside = windows.agg(pl.col("t2").min().alias("low"), pl.col("t2").max().alias("high"))
    is_inside = (pl.col("low") >= pl.col("_lower_boundary")) & (
        pl.col("high") < pl.col("_upper_boundary")
    )
    return inside.select(is_inside.all()), [(True,)]


def empty_windows() -> tuple[pl.LazyFrame, Any]:
    frame = pl.LazyFrame({"at": [1, 2, 3], "a": [1, 1, 1]})
    ahead = pl.sum("a").rolling(index_column="at", period="1i", offset="5i")
    return frame.select("at", ahead), [(1, 0), (2, 0), (3, 0)]


def ordered_right_join() -> tuple[pl.LazyFrame, Any]:
    left, right = pl.LazyFrame({"k": [1]}), pl.LazyFrame({"k": [1, 2, 3, 4, 5]})
    joined = left.join(right, on="k", how="right", maintain_order="left_right")
    return joined, [(n,) for n in range(1, 6)]


def numbered_merge() -> tuple[pl.LazyFrame, Any]:
    halves = [sorted(chance.randrange(10**6) for _ in range(ROWS)) for _ in range(2)]
    first, second = (pl.LazyFrame({"t": half}) for half in halves)
    merged = first.merge_sorted(second, "t").with_row_index("at").select("at", "t")
    return merged, list(enumerate(sorted(halves[0] + halves[1])))


PUBLISHED = {
    "pola-rs/polars#29322": seldom_kept,
    "pola-rs/polars#29020": sums_over_groups,
    "pola-rs/polars#26423": two_lengths,
    "pola-rs/polars#24278": first_of_each_group,
    "pola-rs/polars#29190": windows_of_months,
    "pola-rs/polars#26732": empty_windows,
    "pola-rs/polars#29362": ordered_right_join,
    "pola-rs/polars#29052": numbered_merge,
}


@pytest.mark.parametrize("engine", [IN_MEMORY, STREAMING])
@pytest.mark.parametrize("case", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_a_published_query_has_the_right_rows(
    case: Callable[[], tuple[pl.LazyFrame, Any]], engine: Any
) -> None:
    query, expected = case()
    for _ in range(3):
        assert query.collect(engine=engine).rows() == expected


def scan_of(path: Path, frame: pl.DataFrame) -> pl.LazyFrame:
    match path.suffix:
        case ".parquet":
            frame.write_parquet(path, row_group_size=7_000)
            return pl.scan_parquet(path)
        case ".arrow":
            frame.write_ipc(path, record_batch_size=7_000)
            return pl.scan_ipc(path)
        case ".csv":
            frame.write_csv(path)
            return pl.scan_csv(path.read_bytes(), schema=frame.schema)
    frame.write_ndjson(path)
    return pl.scan_ndjson(path.read_bytes(), schema=frame.schema)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.csv", "a.ndjson"])
def test_the_steps_behind_the_scan_of_a_chunk_have_the_right_rows(
    name: str, tmp_path: Path
) -> None:
    """All that a chain asks of the engine: row numbers, filters, a lookup, several rows from one, and a
    watermark, which needs the rows in their order."""
    n = [chance.randrange(1_000) for _ in range(50_000)]
    rows = [(at, value, value % 10) for at, value in enumerate(n) if value % 7]
    expected, watermark = [], -1
    for at, value, key in rows:
        watermark = max(watermark, value)
        names = [key * 100, key * 100 + 1] if key < 8 else [None]
        expected += [(at, value, name, piece, watermark) for name in names for piece in (1, 2)]
    table = pl.LazyFrame({"key": [*range(8), *range(8)]}).with_columns(
        name=pl.col("key") * 100 + pl.int_range(16) // 8
    )
    query = (
        scan_of(tmp_path / name, pl.DataFrame({"n": n}))
        .with_row_index("at")
        .filter(pl.col("n") % 7 != 0)
        .with_columns(key=pl.col("n") % 10, watermark=pl.col("n").cum_max())
        .join(table, on="key", how="left", maintain_order="left_right")
        .with_columns(pieces=pl.lit([1, 2], pl.List(pl.Int64)))
        .explode("pieces")
        .select("at", "n", "name", "pieces", "watermark")
    )
    for _ in range(3):
        assert query.collect(engine=STREAMING).rows() == expected
