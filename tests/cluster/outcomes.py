"""What a run leaves behind: its rows, late rows and dead letters, in an order that no chance decides."""

from __future__ import annotations

import io
import re
import sqlite3
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
from worker_processes import WorkerProcesses

from dataflare.checkpoint.shared_store import SharedStore
from dataflare.connectors import memory
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.workflow import Workflow

PART = re.compile(r"part-[0-9a-f]{8}(-[0-9]+)+")
OF_RUN = re.compile(r'"(id|failed_at|run_id)":"[^"]*"')
"""In dead letters."""
COUNTS = ("errors", "dead_letters", "late")
"""How many updates of a result go on depends on what comes together."""


def content(file: Path) -> list[str]:
    """The rows of a file, or of the tables of a database."""
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
        case ".csv":
            rows = file.read_text().splitlines()[1:]  # a folder has a header in each part
        case _:
            rows = [OF_RUN.sub("", line) for line in file.read_text().splitlines()]
    return sorted(map(repr, rows))


def run_on(
    workflow: Workflow, home: Path, workers: WorkerProcesses | None, stdout: io.StringIO
) -> RunResult:
    """A run in this process, or on workers."""
    if workers is None:
        return run(workflow, RunOptions(home=home, stdout=stdout))
    options = RunOptions(home=home, stdout=stdout, workers=workers, storage=SharedStore)
    return run(workflow, options)


def outcome(
    workflow: Workflow, folder: Path, workers: WorkerProcesses | None, *tables: str
) -> dict[str, Any]:
    """Run it, and collect the files of `folder`/out and of the default folder of dead letters, what is printed, and
    these memory destinations."""
    memory.clear()
    printed = io.StringIO()
    result = run_on(workflow, folder / "home", workers, printed)
    files: dict[str, list[str]] = {}
    places = folder / "out", folder / "home" / "letters"
    for file in sorted(each for place in places for each in place.rglob("[!.]*")):
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
        "tables": {name: sorted(map(repr, memory.take(name).rows())) for name in tables},
    }
