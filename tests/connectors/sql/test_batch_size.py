"""`batch_size` of a database destination bounds the rows of one statement."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import duckdb
import polars as pl
import pytest

from dataflare.jobs import RunOptions, run
from dataflare.sdk.sql.redo import RedoWriter, frames
from dataflare.workflow.load import load_text


@pytest.mark.parametrize("sizes", [(1, 1, 1), (100,), (7, 93), (20_000, 3)])
def test_a_frame_of_the_redo_file_has_at_most_so_many_rows(tmp_path: Path, sizes: tuple[int, ...]):
    writer = RedoWriter(tmp_path, 1, 0, rows_max=7)
    for size in sizes:
        writer.append(pl.DataFrame({"n": range(size)}), 8 * size)
    found = list(frames(tmp_path, writer.seal(1)))
    assert max(frame.height for frame in found) <= 7
    assert pl.concat(found)["n"].to_list() == [n for size in sizes for n in range(size)]


@pytest.mark.parametrize("type_", ["sqlite", "duckdb"])
@pytest.mark.parametrize("mode", ["mode: append", "mode: upsert, key: [id]", "mode: overwrite"])
def test_rows_are_the_same_in_batches_of_any_size(tmp_path: Path, type_: str, mode: str) -> None:
    text = f"""\
name: batches
sources: {{g: {{type: generate, config: {{rows: 50, columns: {{id: {{sequence: 0}}}}}}}}}}
destinations: {{d: {{type: {type_}, inputs: [g], config: {{path: x.db, table: t, {mode}, batch_size: 7}}}}}}
"""
    result = run(load_text(text, base=tmp_path), RunOptions(home=tmp_path / "home"))
    assert result.status == "finished", result.error
    connect = {"sqlite": sqlite3.connect, "duckdb": duckdb.connect}[type_]
    connection = connect(str(tmp_path / "x.db"))
    assert connection.execute("select id from t order by id").fetchall() == [
        (n,) for n in range(50)
    ]
    connection.close()
