"""Every example that needs no server gives on two workers what it gives in one process."""

from __future__ import annotations

import io
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from worker_processes import WorkerProcesses

from dataflare.checkpoint.shared_store import SharedStore
from dataflare.jobs import RunOptions, run
from dataflare.workflow import load

EXAMPLES = Path(__file__).parents[2] / "examples"
PART = re.compile(r"part-[0-9a-f]{8}(-[0-9]+)+")
OF_RUN = re.compile(r'"(id|failed_at|run_id)":"[^"]*"')
"""In dead letters."""
COUNTS = ("errors", "dead_letters", "late")
"""How many updates of a result go on depends on what comes together."""


@pytest.fixture(scope="module")
def workers() -> Iterator[WorkerProcesses]:
    made = WorkerProcesses(2)
    yield made
    made.close()


def content(file: Path) -> list[Any]:
    """The rows of a file, or of the tables of a database, in an order of their own."""
    match file.suffix:
        case ".parquet":
            rows: list[Any] = pl.read_parquet(file).rows()
        case ".sqlite":
            database = sqlite3.connect(file)
            names = database.execute("select name from sqlite_master where type = 'table'")
            tables = [name for (name,) in names if not name.startswith("_")]
            rows = [row for each in tables for row in database.execute(f'select * from "{each}"')]
            database.close()
        case ".duckdb":
            with duckdb.connect(str(file)) as connection:
                names = connection.execute("select table_name from duckdb_tables()").fetchall()
                tables = [name for (name,) in names if not name.startswith("_")]
                rows = [
                    row
                    for each in tables
                    for row in connection.execute(f'select * from "{each}"').fetchall()
                ]
        case _:
            rows = [OF_RUN.sub("", line) for line in file.read_text().splitlines()]
    return sorted(map(repr, rows))


def outcome(folder: Path, name: str, workers: WorkerProcesses | None) -> dict[str, Any]:
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns(".dataflare", "out"))
    printed = io.StringIO()
    options = RunOptions(home=folder / "home", stdout=printed)
    if workers is not None:
        options = RunOptions(
            home=folder / "home", stdout=printed, workers=workers, storage=SharedStore
        )
    result = run(load(folder / name), options)
    files: dict[str, list[Any]] = {}
    for file in (folder / "out").rglob("[!.]*"):
        if file.is_file():
            name = PART.sub("part", str(file.relative_to(folder)))
            files[name] = sorted([*files.get(name, ()), *content(file)])
    return {
        "status": (result.status, result.error),
        "counts": {
            step: [counts[each] for each in COUNTS] for step, counts in result.steps.items()
        },
        "printed": sorted(printed.getvalue().splitlines()),
        "files": files,
    }


@pytest.mark.rotates(3)
@pytest.mark.parametrize("name", sorted(file.name for file in EXAMPLES.glob("*.yaml")))
def test_an_example_gives_the_same(name: str, tmp_path: Path, workers: WorkerProcesses) -> None:
    alone, on_workers = (
        outcome(tmp_path / where, name, workers if where == "many" else None)
        for where in ("one", "many")
    )
    assert alone["status"] == ("finished", None)
    assert alone["printed"] or alone["files"]
    assert on_workers == alone
