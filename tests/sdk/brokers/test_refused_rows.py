"""A row that a broker would refuse keeps each of its values: it may be written again from its dead letter."""

from __future__ import annotations

import asyncio
from pathlib import Path

import polars as pl
import pytest

from dataflare.errors import DataError
from dataflare.formats.messages.json import JsonEncoder
from dataflare.formats.row_text import row_text
from dataflare.model.batch import SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk.brokers.rows import MessageMaker, Shape
from dataflare.sdk.brokers.writing import EpochWriter
from dataflare.sdk.context import DestinationContext

NANOSECOND = 1_700_000_000_123_456_789
SCHEMA = Schema.of(
    {
        "to": "string",
        "at": "timestamp[ns, UTC]",
        "local": "timestamp[ns]",
        "time": "time",
        "day": "date",
        "inner": "struct<at: timestamp[ns, UTC], ratio: float64>",
    }
)


def writer(folder: Path, *, sift: bool) -> EpochWriter:
    context = DestinationContext("out", "lineage", 1, SCHEMA, folder, sift=sift)
    maker = MessageMaker(Shape(["", "to", ""]), SCHEMA, JsonEncoder())
    return EpochWriter(maker, context, "topic 't'", None)


def rows() -> SharedDataBatch:
    stamp = pl.Series([NANOSECOND], dtype=pl.Int64)
    frame = pl.DataFrame(
        {
            "to": pl.Series([None], dtype=pl.String),
            "at": stamp.cast(pl.Datetime("ns", "UTC")),
            "local": stamp.cast(pl.Datetime("ns")),
            "time": pl.Series([1], dtype=pl.Int64).cast(pl.Time),
            "day": pl.Series([3_000_000], dtype=pl.Int32).cast(pl.Date),
        }
    ).with_columns(inner=pl.struct(pl.col("at"), ratio=pl.lit(float("nan"))))
    return SharedDataBatch(frame)


def test_a_dead_letter_has_each_nanosecond_and_each_year(tmp_path: Path) -> None:
    async def go() -> dict[str, object]:
        made = writer(tmp_path, sift=True)
        await made.write_batch(rows())
        (refused,) = await made.settle()
        await made.aclose()
        return dict(refused.row)

    row = asyncio.run(go())
    assert row == {
        "to": None,
        "at": "2023-11-14T22:13:20.123456789Z",
        "local": "2023-11-14T22:13:20.123456789",
        "time": "00:00:00.000000001",
        "day": "+10183-09-21",
        "inner": {"at": "2023-11-14T22:13:20.123456789Z", "ratio": pytest.approx(float("nan"), nan_ok=True)},
    }  # fmt: skip
    assert '"ratio":"nan"' in row_text(row)


def test_the_error_of_a_run_shows_the_row_in_full(tmp_path: Path) -> None:
    async def go() -> None:
        made = writer(tmp_path, sift=False)
        try:
            await made.write_batch(rows())
        finally:
            await made.aclose()

    with pytest.raises(DataError) as caught:
        asyncio.run(go())
    assert "at='2023-11-14T22:13:20.123456789Z'" in caught.value.notes[0]
