"""What a source reads: a snapshot, a branch, new rows; and what it refuses by name."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conformance import keeps_source_laws
from optional_packages import package

from dataflare.errors import ConfigError, DataFlareError
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.testing import SOURCE_LAWS, source_of
from dataflare.workflow.load import load_text

package("pyiceberg")
from iceberg_kit import CATALOG, catalog_of, frame_of, table_of  # noqa: E402
from pyiceberg.transforms import DayTransform  # noqa: E402

ROWS = pl.DataFrame(
    {
        "id": range(50),
        "name": [None if n % 7 == 0 else f"name {n}" for n in range(50)],
        "at": [dt.datetime(2026, 1, 1 + n % 4, n % 24) for n in range(50)],
    }
)


def put(folder: Path, frame: pl.DataFrame = ROWS, *, by_day: bool = False) -> Any:
    catalog = catalog_of(folder)
    catalog.create_namespace_if_not_exists("shop")
    arrow = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    if not catalog.table_exists("shop.orders"):
        table = catalog.create_table("shop.orders", arrow.schema)
        if by_day:
            with table.update_spec() as update:
                update.add_field("at", DayTransform(), "at_day")
    table = table_of(folder)
    table.append(arrow)
    return table


def copy(folder: Path, source: str = "", target: str = "mode: append", **options: Any) -> RunResult:
    catalog = "{type: sql, uri: 'sqlite:///catalog.db', warehouse: lake}"
    workflow = load_text(
        f"""
name: copy
sources:
  s: {{type: iceberg, config: {{catalog: {catalog}, table: shop.orders, {source}}}}}
destinations:
  d: {{type: iceberg, inputs: [s], config: {{catalog: {catalog}, table: shop.copy, {target}}}}}
""",
        base=folder,
    )
    return run(workflow, RunOptions(folder / "home", **options))


def ids(folder: Path, name: str = "shop.copy", branch: str = "main") -> list[int]:
    frame = frame_of(folder, name, branch)
    assert frame is not None
    return frame["id"].sort().to_list()


@pytest.mark.parametrize("law", SOURCE_LAWS)
@pytest.mark.parametrize("options", [{}, {"new_only": True}], ids=str)
def test_the_source_keeps_its_contract(law: str, options: dict[str, Any], tmp_path: Path):
    put(tmp_path, ROWS[:20], by_day=True)
    put(tmp_path, ROWS[20:])
    config = {"catalog": CATALOG, "table": "shop.orders", **options}
    make = lambda: source_of("iceberg", config, base=tmp_path)  # noqa: E731
    keeps_source_laws("iceberg", make, only=[law])


@pytest.mark.parametrize(
    "partitions",
    [["day(at)"], ["bucket(4, id)"], ["truncate(6, name)", "month(at)"], ["name"], ["hour(at)"]],
    ids=str,
)
def test_a_partitioned_copy_has_each_row_once(partitions: list[str], tmp_path: Path):
    put(tmp_path)
    result = copy(
        tmp_path, target=f"partition_by: [{', '.join(repr(each) for each in partitions)}]"
    )
    assert result.error is None
    frame = frame_of(tmp_path, "shop.copy")
    assert frame is not None
    assert frame.sort("id").equals(ROWS)
    day = table_of(tmp_path, "shop.copy").scan(row_filter="id == 7").to_arrow()
    assert day.num_rows == 1


def test_an_upsert_finds_rows_in_their_partitions(tmp_path: Path):
    put(tmp_path)
    upsert = "mode: upsert, key: [id], partition_by: ['bucket(4, id)', 'name']"
    assert copy(tmp_path, "new_only: true", upsert).error is None
    put(tmp_path, ROWS[:5].with_columns(name=pl.lit("new")))
    again = copy(tmp_path, "new_only: true", upsert)
    assert again.error is None
    assert again.steps["s"]["rows_out"] == 5
    frame = frame_of(tmp_path, "shop.copy")
    assert frame is not None
    changed = pl.concat([ROWS[:5].with_columns(name=pl.lit("new")), ROWS[5:]])
    assert frame.sort("id").equals(changed)


def test_an_earlier_snapshot_is_read(tmp_path: Path):
    first = put(tmp_path, ROWS[:3]).current_snapshot().snapshot_id
    put(tmp_path, ROWS[3:5])
    assert copy(tmp_path, f"snapshot: {first}").error is None
    assert ids(tmp_path) == [0, 1, 2]


def test_new_rows_are_read_once_and_changes_are_refused(tmp_path: Path):
    put(tmp_path, ROWS[:3])
    assert copy(tmp_path, "new_only: true").error is None
    assert copy(tmp_path, "new_only: true").error is None
    put(tmp_path, ROWS[3:5])
    put(tmp_path, ROWS[5:6])
    assert copy(tmp_path, "new_only: true").error is None
    assert ids(tmp_path) == [0, 1, 2, 3, 4, 5]
    table_of(tmp_path).delete("id == 1")
    result = copy(tmp_path, "new_only: true")
    assert result.error is not None
    assert result.error.code == "E0808"


def test_a_branch_is_written_and_read(tmp_path: Path):
    put(tmp_path, ROWS[:3])
    assert copy(tmp_path).error is None
    assert copy(tmp_path, target="branch: audit", fresh=True).error is None
    assert ids(tmp_path) == [0, 1, 2]
    assert ids(tmp_path, branch="audit") == [0, 0, 1, 1, 2, 2]
    table = table_of(tmp_path)
    table.manage_snapshots().create_branch(table.current_snapshot().snapshot_id, "old").commit()
    put(tmp_path, ROWS[3:5])
    assert copy(tmp_path, "branch: old", "mode: overwrite", fresh=True).error is None
    assert ids(tmp_path) == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"table": "shop.nothing"}, "E0604"),
        ({"snapshot": 9}, "E0604"),
        ({"branch": "nothing"}, "E0604"),
        ({"columns": ["nam"]}, "E0606"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_refused(options: dict[str, Any], code: str, tmp_path: Path):
    put(tmp_path)
    config = {"catalog": CATALOG, "table": "shop.orders", **options}
    with pytest.raises(DataFlareError) as caught:
        asyncio.run(source_of("iceberg", config, base=tmp_path).schema())
    assert caught.value.code == code


def test_files_of_an_older_partition_spec_are_read_and_replaced(tmp_path: Path):
    put(tmp_path, ROWS[:9])
    assert copy(tmp_path, target="mode: upsert, key: [id]").error is None
    with table_of(tmp_path, "shop.copy").update_spec() as update:
        update.add_field("at", DayTransform(), "at_day")
    put(tmp_path, ROWS[:2].with_columns(name=pl.lit("new")))
    assert copy(tmp_path, "new_only: true", "mode: upsert, key: [id]").error is None
    assert ids(tmp_path) == list(range(9))


@pytest.mark.parametrize(
    ("partitions", "why"),
    [
        ("[hour(at), year(at)]", "two of them are of one column"),
        ("['bucket(0, id)']", "bucket\\(0, id\\)"),
        ("[day(name)]", "the column is string"),
        ("[nothing]", "there is no column 'nothing'"),
    ],
)
def test_wrong_partitions_are_refused(partitions: str, why: str, tmp_path: Path):
    put(tmp_path)
    with pytest.raises(ConfigError, match=why) as caught:
        copy(tmp_path, target=f"partition_by: {partitions}")
    assert caught.value.code == "E0411"
