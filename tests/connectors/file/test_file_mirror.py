"""`mode: mirror` of one file: a full read replaces it, each key once, and not too many rows may go."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from file_kit import destination, names, write

from dataflare.errors import ConfigError, DataError, DataFlareError
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.workflow.load import load_text

NAMES = ["a.csv", "a.csv.gz", "a.ndjson", "a.json", "a.parquet", "a.arrow"]


def mirror(name: str, **more: Any) -> dict[str, Any]:
    return {"path": name, "mode": "mirror", "key": ["id", "at"], **more}


def rows(*ids: int | None) -> pl.DataFrame:
    """Rows with keys that text has to bring back exactly."""
    at = [
        None if i is None or i % 5 == 0 else datetime(2024, 1, i % 9 + 1, 0, 0, 0, i % 7)
        for i in ids
    ]
    return pl.DataFrame(
        {"id": ids, "at": at, "name": [f"n{i}" for i in ids]},
        schema={"id": pl.Int64, "at": pl.Datetime("us"), "name": pl.String},
    ).with_columns(pl.col("id") + 2**53)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("gone", "is_replaced"), [(2, True), (3, False)])
def test_the_file_is_replaced_unless_too_many_rows_would_go(
    tmp_path: Path, name: str, gone: int, is_replaced: bool
):
    write(mirror(name), tmp_path, rows(*range(10)))
    before = (tmp_path / name).read_bytes()
    new = rows(*range(gone, 10), 77)
    if is_replaced:
        assert (
            write(mirror(name), tmp_path, rows(*range(gone, 9)), rows(9, 77))["rows"] == new.height
        )
        assert (tmp_path / name).read_bytes() != before
        return
    with pytest.raises(DataError, match="3 of 10 rows") as caught:
        write(mirror(name), tmp_path, new)
    assert caught.value.code == "E0512"
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize(
    ("most", "is_replaced"), [(5, True), (4, False), ("50%", True), (0, False)]
)
def test_delete_max_is_a_share_or_a_count(tmp_path: Path, most: object, is_replaced: bool):
    write(mirror("a.csv"), tmp_path, rows(*range(10)))
    if is_replaced:
        write(mirror("a.csv", delete_max=most), tmp_path, rows(*range(5)))
    else:
        with pytest.raises(DataError):
            write(mirror("a.csv", delete_max=most), tmp_path, rows(*range(5)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("twice", [3, None])
def test_a_key_that_comes_twice_is_an_error(tmp_path: Path, name: str, twice: int | None):
    with pytest.raises(DataError, match="several rows with the key") as caught:
        write(mirror(name), tmp_path, rows(1, twice, 3), rows(4, twice))
    assert caught.value.code == "E0549"
    assert "deduplicate" in str(caught.value.help)
    assert name not in names(tmp_path)


def test_a_file_that_was_not_written_by_a_mirror_is_not_replaced_unseen(tmp_path: Path):
    (tmp_path / "a.csv").write_text("other\n1\n")
    with pytest.raises(DataError, match="cannot be compared"):
        write(mirror("a.csv"), tmp_path, rows(1))
    assert (tmp_path / "a.csv").read_text() == "other\n1\n"


@pytest.mark.parametrize(
    "config",
    [
        {"path": "folder/", "mode": "mirror", "key": "id"},
        {"path": "a.csv", "mode": "mirror"},
        {"path": "a.csv", "mode": "mirror", "key": "id", "header": False},
        {"path": "a.csv", "mode": "upsert", "key": "id"},
        {"path": "a.csv", "key": "id"},
        {"path": "a.csv", "delete_max": "10%"},
    ],
)
def test_where_a_mirror_makes_no_sense_the_reason_is_said(tmp_path: Path, config: dict[str, Any]):
    with pytest.raises(ConfigError) as caught:
        _ = destination(config, tmp_path).target
    assert caught.value.code == "E0406"
    assert caught.value.message


WORKFLOW = """\
name: copy
sources: {rows: {type: file, config: {path: in.csv, MORE}}}
destinations: {out: {type: file, inputs: [rows], config: {path: out.csv, mode: mirror, key: id}}}
"""


def copy(folder: Path, text: str, more: str = "delimiter: ','") -> RunResult:
    (folder / "in.csv").write_text(text)
    workflow = load_text(WORKFLOW.replace("MORE", more), base=folder)
    return run(workflow, RunOptions(folder / "home"))


def test_a_run_deletes_what_the_source_lacks(tmp_path: Path):
    assert copy(tmp_path, "id,n\n1,a\n2,b\n3,c\n4,d\n5,e\n").status == "finished"
    assert copy(tmp_path, "id,n\n1,a\n2,x\n3,c\n4,d\n").status == "finished"
    assert (tmp_path / "out.csv").read_text() == "id,n\n1,a\n2,x\n3,c\n4,d\n"
    failed = copy(tmp_path, "id,n\n1,a\n")
    assert failed.error is not None
    assert failed.error.code == "E0512"
    assert (tmp_path / "out.csv").read_text() == "id,n\n1,a\n2,x\n3,c\n4,d\n"
    # The next run goes on from before the end, with the rows that the source has then.
    assert copy(tmp_path, "id,n\n1,a\n2,x\n3,c\n4,e\n5,f\n").status == "finished"
    assert (tmp_path / "out.csv").read_text() == "id,n\n1,a\n2,x\n3,c\n4,e\n5,f\n"


def test_a_source_that_is_not_read_as_a_whole_is_refused(tmp_path: Path):
    (tmp_path / "in.csv").write_text("id,n\n1,a\n")
    workflow = load_text(WORKFLOW.replace("MORE", "new_only: true"), base=tmp_path)
    with pytest.raises(DataFlareError) as caught:
        run(workflow, RunOptions(tmp_path / "home"))
    assert caught.value.code == "E0324"


def test_a_run_that_left_out_rows_deletes_none(tmp_path: Path):
    lenient = "delimiter: ','}, schema: {id: int64}, error_handling: {on_error: skip"
    assert copy(tmp_path, "id,n\n1,a\n2,b\n3,c\n", lenient).status == "finished"
    failed = copy(tmp_path, "id,n\n1,a\n2x,b\n3,c\n", lenient)
    assert failed.error is not None
    assert failed.error.code == "E0512"
    assert (tmp_path / "out.csv").read_text() == "id,n\n1,a\n2,b\n3,c\n"
    # Every row is there, and another one fails.
    told = copy(tmp_path, "id,n\n1,a\n2,b\n3,c\n4x,d\n", lenient)
    assert told.steps["out"]["deleted"] == 0
    assert copy(tmp_path, "id,n\n2,b\n3,c\n4,d\n5,e\n", lenient).steps["out"]["deleted"] == 1
