"""Columns that come later, and wider types."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import polars as pl
from lake_kit import Lake, Step, batch

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.model.types import Schema
from dataflare.workflow.load import load_text

OTHER = {"lineage": "2f0e0d0c-0b0a-4000-8000-000000000003", "workflow": "other"}


def write(lake: Lake, frame: pl.DataFrame, **config: Any) -> None:
    async def go() -> None:
        step = await Step(lake, Schema.from_polars(frame.schema), **config).start()
        await step.epoch(1, batch(frame), final=True)
        await step.close()

    asyncio.run(go())


def test_a_column_that_is_new_is_added_and_an_old_one_is_kept(lake: Lake):
    keyed: dict[str, Any] = {"mode": "upsert", "key": ["id"]}
    write(lake, pl.DataFrame({"id": [1, 2], "old": ["a", "b"]}), **keyed)
    write(lake, pl.DataFrame({"id": [2, 3], "new": [20, 30]}), **keyed, **OTHER)
    assert lake.frame().sort("id").rows() == [(1, "a", None), (2, "b", 20), (3, None, 30)]
    assert lake.read().sort("id").rows() == [(1, "a", None), (2, "b", 20), (3, None, 30)]


def test_names_of_another_case_are_the_columns_of_the_table(lake: Lake):
    write(lake, pl.DataFrame({"Id": [1], "V": ["a"]}))
    write(lake, pl.DataFrame({"id": [2], "v": ["b"]}), **OTHER)
    assert lake.frame().sort("Id").rows() == [(1, "a"), (2, "b")]


def test_iceberg_widens_its_columns(tmp_path: Path):
    lake = Lake("iceberg", tmp_path)
    cents = pl.Series([1], dtype=pl.Int64).cast(pl.Decimal(5, 2))
    write(
        lake,
        pl.DataFrame(
            {
                "i": pl.Series([1], dtype=pl.Int32),
                "f": pl.Series([1.5], dtype=pl.Float32),
                "d": cents,
            }
        ),
    )
    wide = pl.DataFrame({"i": [2**40], "f": [0.1], "d": cents.cast(pl.Decimal(12, 2))})
    write(lake, wide, **OTHER)
    found = lake.read().sort("i")
    assert found.schema == {"i": pl.Int64, "f": pl.Float64, "d": pl.Decimal(12, 2)}
    assert found["i"].to_list() == [1, 2**40]
    assert found["f"].to_list() == [1.5, 0.1]
    assert lake.frame().sort("i").equals(found)


def copied(lake: Lake) -> RunResult:
    config = lake.config(mode="upsert", key=["id"])
    text = f"""
name: load
settings: {{checkpoint: {{interval: 10ms}}}}
sources:
  s: {{type: file, config: {{path: "in/*.ndjson"}}}}
destinations:
  d: {{type: {lake.kind}, inputs: [s], config: {config}}}
"""
    loaded = load_text(text, base=lake.folder)
    return run(loaded, RunOptions(lake.folder / "home"))


def test_a_field_that_comes_late_in_a_run_becomes_a_column(lake: Lake):
    folder = lake.folder / "in"
    folder.mkdir()
    (folder / "a.ndjson").write_text("".join(f'{{"id": {n}}}\n' for n in range(5_000)))
    (folder / "b.ndjson").write_text('{"id": 8000, "late": "x"}\n{"id": 9000}\n')
    result = copied(lake)
    assert result.error is None, result.error
    frame = lake.frame()
    assert frame.height == 5_002
    assert frame.filter(pl.col("id") == 8_000)["late"].to_list() == ["x"]
