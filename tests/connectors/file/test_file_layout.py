"""A resumed run with other columns or options never writes into the rows that a file has already."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from file_kit import read, start

from dataflare.errors import RunError
from dataflare.model.types import Schema
from dataflare.sdk.destination import Committable

FIRST = pl.DataFrame({"id": [1, 2], "a": [10, 20], "b": [100, 200]})
SWAPPED = pl.DataFrame({"id": [3], "b": [300], "a": [30]})
WIDER = SWAPPED.select("id", "a", "b", c=pl.lit("new"))
OTHER_TYPE = pl.DataFrame({"id": [3], "a": ["thirty"], "b": [300]})

FIXED = ["o.csv", "o.csv.gz", "o.parquet", "o.arrow"]
NAMING = ["o.ndjson", "o.ndjson.zst", "o.json"]


async def stopped(config: dict[str, Any], base: Path) -> list[Committable]:
    """Write FIRST, and stop."""
    run = await start(config, base, Schema.from_polars(FIRST.schema))
    made: list[Committable] = await run.epoch(1, FIRST)
    await run.aclose()
    return made


async def go_on(
    config: dict[str, Any],
    base: Path,
    made: list[Committable],
    later: pl.DataFrame,
    attempt: int = 2,
) -> None:
    schema = Schema.from_polars(later.schema)
    run = await start(config, base, schema, epoch=1, restored=made, attempt=attempt)
    await run.epoch(2, later, final=True)
    await run.aclose()


def without_layout(made: list[Committable]) -> list[Committable]:
    """As an earlier version made them."""
    return [
        Committable(c.subtask, {k: v for k, v in c.data.items() if k != "layout"}) for c in made
    ]


CSV_APPENDS = [{"path": path, "mode": "append"} for path in ("o.csv", "o.csv.gz")]


@pytest.mark.parametrize("later", [SWAPPED, WIDER, OTHER_TYPE], ids=["order", "more", "type"])
@pytest.mark.parametrize("config", [*({"path": path} for path in FIXED), *CSV_APPENDS], ids=str)
def test_other_columns_are_refused_before_a_row_is_written(tmp_path, config, later):
    made = asyncio.run(stopped(config, tmp_path))
    with pytest.raises(RunError) as caught:
        asyncio.run(go_on(config, tmp_path, made, later))
    error = caught.value
    assert (error.code, error.step, error.exit_status) == ("E0803", "dst", 2)
    assert "id (int64), a (int64), b (int64)" in error.notes[0]
    columns = [f"{field.name} ({field.type})" for field in Schema.from_polars(later.schema)]
    assert ", ".join(columns) in error.notes[1]
    assert "--fresh" in (error.help or "")
    asyncio.run(go_on(config, tmp_path, made, FIRST, attempt=3))
    assert read(config["path"], tmp_path).frame.equals(pl.concat([FIRST, FIRST]))


@pytest.mark.parametrize("later", [SWAPPED, WIDER], ids=["order", "more"])
@pytest.mark.parametrize("path", NAMING)
def test_rows_that_name_their_values_may_have_other_columns(tmp_path, path, later):
    config = {"path": path}
    asyncio.run(go_on(config, tmp_path, asyncio.run(stopped(config, tmp_path)), later))
    expected = pl.concat([FIRST, later], how="diagonal")
    assert read(path, tmp_path).frame.select(expected.columns).equals(expected)


@pytest.mark.parametrize(
    ("config", "change"),
    [
        ({"path": "o.csv"}, {"delimiter": ";"}),
        ({"path": "o.csv"}, {"null_value": "NULL"}),
        ({"path": "o.csv"}, {"format": "ndjson"}),
        ({"path": "o.csv"}, {"compression": "gzip"}),
        ({"path": "o.ndjson"}, {"format": "json"}),
        ({"path": "o.parquet"}, {"format": "arrow"}),
    ],
)
def test_other_options_of_the_format_are_refused(tmp_path, config, change):
    made = asyncio.run(stopped(config, tmp_path))
    with pytest.raises(RunError) as caught:
        asyncio.run(go_on(config | change, tmp_path, made, FIRST))
    assert caught.value.code == "E0803"
    (name, value) = next(iter(change.items()))
    assert any(n.startswith(f"{name}: ") and repr(value) in n for n in caught.value.notes)


@pytest.mark.parametrize("path", [*FIXED, *NAMING])
def test_what_an_earlier_version_staged_goes_on(tmp_path, path):
    config = {"path": path}
    made = without_layout(asyncio.run(stopped(config, tmp_path)))
    asyncio.run(go_on(config, tmp_path, made, FIRST))
    assert read(path, tmp_path).frame.equals(pl.concat([FIRST, FIRST]))


@pytest.mark.parametrize("later", [SWAPPED, WIDER], ids=["order", "more"])
@pytest.mark.parametrize("format_", ["csv", "parquet", "arrow"])
def test_each_part_of_a_folder_has_the_columns_of_its_own_rows(tmp_path, format_, later):
    config = {"path": "o/", "format": format_}
    asyncio.run(go_on(config, tmp_path, asyncio.run(stopped(config, tmp_path)), later))
    parts = sorted((tmp_path / "o").glob("part-*"), key=lambda path: path.name)
    assert [read(str(path), tmp_path).frame.rows(named=True) for path in parts] == [
        FIRST.rows(named=True),
        later.rows(named=True),
    ]
