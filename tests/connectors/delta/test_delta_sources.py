"""What a source reads: a version, new rows, the change feed; and what it refuses by name."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conformance import keeps_source_laws
from optional_packages import package

from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.testing import SOURCE_LAWS, source_of
from dataflare.workflow.load import load_text

deltalake = package("deltalake")
ROWS = pl.DataFrame(
    {
        "id": range(50),
        "name": [None if n % 7 == 0 else f"name {n}" for n in range(50)],
        "day": ["a b", "c/ü", None, "d"] * 12 + ["d", "d"],
    }
)
FEED = {"delta.enableChangeDataFeed": "true"}


def put(folder: Path, frame: pl.DataFrame = ROWS, name: str = "orders", **options: Any) -> Any:
    deltalake.write_deltalake(folder / name, frame, mode="append", **options)
    return deltalake.DeltaTable(folder / name)


def copy(folder: Path, source: str = "", target: str = "mode: append", **options: Any) -> RunResult:
    workflow = load_text(
        f"""
name: copy
sources:
  s: {{type: delta, config: {{path: orders, {source}}}}}
destinations:
  d: {{type: delta, inputs: [s], config: {{path: copy, {target}}}}}
""",
        base=folder,
    )
    return run(workflow, RunOptions(folder / "home", **options))


def rows(folder: Path, name: str = "copy") -> list[tuple[Any, ...]]:
    frame = pl.read_delta(str(folder / name))
    return frame.select("id", "name").sort("id", "name").rows()


@pytest.mark.parametrize("law", SOURCE_LAWS)
@pytest.mark.parametrize("options", [{}, {"new_only": True}, {"change_feed": True}], ids=str)
def test_the_source_keeps_its_contract(law: str, options: dict[str, Any], tmp_path: Path):
    put(tmp_path, ROWS[:20], partition_by=["day"], configuration=FEED)
    put(tmp_path, ROWS[20:])
    make = lambda: source_of("delta", {"path": "orders", **options}, base=tmp_path)  # noqa: E731
    keeps_source_laws("delta", make, only=[law])


def test_a_copy_has_each_row_once(tmp_path: Path):
    put(tmp_path, ROWS, partition_by=["day"])
    result = copy(tmp_path, target="partition_by: [day]")
    assert result.error is None
    assert pl.read_delta(str(tmp_path / "copy")).sort("id").select(ROWS.columns).equals(ROWS)


def test_an_earlier_version_is_read_by_number_and_by_time(tmp_path: Path):
    table = put(tmp_path, ROWS[:3])
    at = table.history()[0]["timestamp"]
    put(tmp_path, ROWS[3:5])
    assert copy(tmp_path, "version: 0").error is None
    assert [row[0] for row in rows(tmp_path)] == [0, 1, 2]
    import datetime as dt

    text = dt.datetime.fromtimestamp(at / 1000, dt.UTC).isoformat()
    assert copy(tmp_path, f"timestamp: '{text}'", "mode: overwrite", fresh=True).error is None
    assert [row[0] for row in rows(tmp_path)] == [0, 1, 2]


def test_new_rows_are_read_once_over_compaction_and_changes_are_refused(tmp_path: Path):
    put(tmp_path, ROWS[:3])
    assert copy(tmp_path, "new_only: true").error is None
    assert copy(tmp_path, "new_only: true").error is None
    put(tmp_path, ROWS[3:5])
    table = put(tmp_path, ROWS[5:6])
    table.optimize.compact()
    assert copy(tmp_path, "new_only: true").error is None
    assert [row[0] for row in rows(tmp_path)] == [0, 1, 2, 3, 4, 5]
    deltalake.DeltaTable(tmp_path / "orders").delete("id = 1")
    result = copy(tmp_path, "new_only: true")
    assert result.error is not None
    assert result.error.code == "E0808"


def test_the_change_feed_is_mirrored(tmp_path: Path):
    table = put(tmp_path, ROWS[:9], configuration=FEED)
    mirrored = "mode: mirror, key: [id]"
    assert copy(tmp_path, "change_feed: true", mirrored).error is None
    table.update(updates={"name": "'new'"}, predicate="id = 2")
    table.delete("id = 3")
    put(tmp_path, ROWS[9:12])
    assert copy(tmp_path, "change_feed: true", mirrored).error is None
    assert rows(tmp_path) == rows(tmp_path, "orders")
    assert copy(tmp_path, "change_feed: true", mirrored).error is None
    assert rows(tmp_path) == rows(tmp_path, "orders")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"path": "nowhere"}, "E0604"),
        ({"path": "orders", "version": 9}, "E0604"),
        ({"path": "orders", "change_feed": True}, "E0405"),
        ({"path": "orders", "columns": ["nam"]}, "E0606"),
        ({"path": "ftp://host/orders"}, "E0419"),
        ({"path": "orders", "timestamp": "soon"}, "E0405"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_refused(options: dict[str, Any], code: str, tmp_path: Path):
    put(tmp_path)
    with pytest.raises(DataFlareError) as caught:
        asyncio.run(source_of("delta", options, base=tmp_path).schema())
    assert caught.value.code == code


def test_rows_of_odd_partitions_are_replaced(tmp_path: Path):
    put(tmp_path, ROWS, partition_by=["day"])
    upsert = "mode: upsert, key: [id], partition_by: [day]"
    assert copy(tmp_path, target=upsert).error is None
    changed = ROWS.with_columns(name=pl.lit("new"))
    deltalake.write_deltalake(tmp_path / "orders", changed, mode="overwrite")
    assert copy(tmp_path, target=upsert).error is None
    table = pl.read_delta(str(tmp_path / "copy")).sort("id").select(changed.columns)
    assert table.equals(changed)
