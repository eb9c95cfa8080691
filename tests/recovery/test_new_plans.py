"""A run that learns columns on its way and dies around that: each row once, in one schema."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

pytestmark = pytest.mark.rotates(3)

ROWS = [
    {"id": 0, "a": 1},
    *({"id": n} for n in range(1, 30)),
    {"id": 30, "late": "x"},
    *({"id": n, "late": "y", "o": {"p": n}} for n in range(31, 40)),
    {"id": 40, "later": 1.5},
    *({"id": n} for n in range(41, 60)),
]
RUNNER = """\
import sys
from pathlib import Path
from dataflare.engine import new_fields
from dataflare.formats import line_chunks
from dataflare.jobs import RunOptions, run
from dataflare.workflow.load import load_text
# Many chunks, and as many plans as there are new fields.
line_chunks.FIRST_BYTES = line_chunks.CHUNK_BYTES = 60
new_fields.LOOK_AHEAD_BYTES = 0
here = Path(sys.argv[1])
result = run(load_text((here / "w.json").read_text(), base=here), RunOptions(here / "home"))
if result.error is not None:
    print(result.error.code, result.error, file=sys.stderr)
sys.exit(result.exit_status)
"""
TABLES = {
    "lite": {"type": "sqlite", "config": {"path": "lite.db", "table": "t"}},
    "keyed": {
        "type": "duckdb",
        "config": {"path": "duck.db", "table": "k", "mode": "upsert", "key": ["id"]},
    },
    "parts": {"type": "file", "config": {"path": "parts/", "format": "ndjson"}},
}
FILES = {
    "csv": {"type": "file", "config": {"path": "one.csv"}},
    "parquet": {"type": "file", "config": {"path": "one.parquet"}},
    "parts": {"type": "file", "config": {"path": "parts/", "format": "ndjson"}},
    "keyed": {
        "type": "duckdb",
        "config": {"path": "duck.db", "table": "k", "mode": "upsert", "key": ["id"]},
    },
}


def prepared(folder: Path, destinations: dict[str, Any]) -> None:
    (folder / "in.ndjson").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    text = {
        "name": "dies",
        "settings": {"parallelism": 1, "checkpoint": {"interval": "1ms"}},
        "sources": {
            "s": {"type": "file", "config": {"path": "in.ndjson", "schema_sample_rows": 2}}
        },
        "destinations": {n: {**each, "inputs": ["s"]} for n, each in destinations.items()},
    }
    (folder / "w.json").write_text(json.dumps(text))


def start(folder: Path, crash_at: str | None = None) -> int:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    if crash_at is not None:
        environment["DATAFLARE_CRASH_AT"] = crash_at
    ended = subprocess.run(
        [sys.executable, "-c", RUNNER, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode


def contents(folder: Path, destinations: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    if "lite" in destinations:
        with sqlite3.connect(folder / "lite.db") as lite:
            lite.row_factory = sqlite3.Row
            found["lite"] = [dict(row) for row in lite.execute("select * from t")]
    if "keyed" in destinations:
        with duckdb.connect(str(folder / "duck.db"), read_only=True) as duck:
            found["keyed"] = duck.sql("from k").pl().to_dicts()
    if "csv" in destinations:
        found["csv"] = pl.read_csv(folder / "one.csv").to_dicts()
    if "parquet" in destinations:
        found["parquet"] = pl.read_parquet(folder / "one.parquet").to_dicts()
    lines = [line for path in (folder / "parts").glob("*.ndjson") for line in path.open()]
    found["parts"] = [json.loads(line) for line in lines]
    return {name: sorted(map(bare, rows), key=lambda r: r["id"]) for name, rows in found.items()}


def bare(row: dict[str, Any]) -> dict[str, Any]:
    made = {name: value for name, value in row.items() if value is not None}
    if isinstance(made.get("o"), str):
        made["o"] = json.loads(made["o"])
    return made


POINTS = [
    "replan.before_learned",
    "replan.after_learned",
    "replan.after_learned:2",
    "replan.after_taken_back",
    "replan.after_taken_back:2",
    "engine.after_manifest",
    "engine.after_manifest:4",
    "engine.before_commit:6",
    "engine.after_commit:8",
]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("kind", ["tables", "files"])
def test_a_run_that_dies_there_ends_with_each_row_once(kind: str, point: str, tmp_path: Path):
    destinations = TABLES if kind == "tables" else FILES
    prepared(tmp_path, destinations)
    ended = start(tmp_path, crash_at=point)
    if ":" not in point and not (kind == "tables" and "taken_back" in point):
        assert ended == -signal.SIGKILL, f"the run never came to {point}"
    if ended:
        assert start(tmp_path) == 0
    for name, rows in contents(tmp_path, destinations).items():
        assert rows == ROWS, name
    assert not [path for path in tmp_path.rglob("*") if "inprogress" in path.name]
