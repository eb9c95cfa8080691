"""Every example runs, and gives what `examples/expected/` says.

`UPDATE_EXAMPLES=1 pytest tests/docs/test_examples.py` writes the expectations anew; read the difference.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from optional_packages import package

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))


def dataflare(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would, with its state in `cwd`."""
    command = [sys.executable, "-m", "dataflare", *arguments]
    env = {name: value for name, value in os.environ.items() if name != "DATAFLARE_HOME"}
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def plain(value: Any) -> Any:
    """A value as JSON has it; times and decimals as text."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def rows_of(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return sorted((plain(row) for row in frame.to_dicts()), key=lambda row: json.dumps(row))


def tables_of(path: Path) -> dict[str, list[dict[str, Any]]]:
    """A database's tables, except the marker."""
    if path.suffix == ".sqlite":
        connection: Any = sqlite3.connect(path)
        names = [
            n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
    else:
        duckdb = package("duckdb")
        connection = duckdb.connect(str(path), read_only=True)
        names = [
            n for (n,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
        ]
    made = {}
    for name in names:
        if "dataflare" not in name:
            cursor = connection.execute(f'SELECT * FROM "{name}"')
            columns = [column[0] for column in cursor.description]
            rows = [dict(zip(columns, map(plain, row), strict=True)) for row in cursor.fetchall()]
            made[f"{path.name}#{name}"] = sorted(rows, key=lambda row: json.dumps(row))
    connection.close()
    return made


def results(out: Path) -> dict[str, Any]:
    """What lies under `out`: each file's rows, in an order of their own; a partitioned folder as one."""
    found: dict[str, Any] = {}
    for path in sorted(out.iterdir()):
        if path.suffix in (".sqlite", ".duckdb"):
            found |= tables_of(path)
        elif path.suffix == ".csv":
            found[path.name] = rows_of(pl.read_csv(path, infer_schema=False))
        elif path.suffix == ".ndjson":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.name] = sorted(lines, key=lambda row: json.dumps(row))
        elif path.suffix == ".parquet":
            found[path.name] = rows_of(pl.read_parquet(path))
        elif path.is_dir() and list(path.rglob("*.parquet")):
            found[f"{path.name}/"] = rows_of(pl.read_parquet(path, hive_partitioning=True))
        elif path.is_dir():
            found[f"{path.name}/"] = dead_letters(path)
    return found


def dead_letters(folder: Path) -> list[Any]:
    """The rows of dead letters, without what differs from run to run."""
    kept = ("step", "code", "message", "attempts", "position", "row")
    lines = [
        json.loads(li)
        for p in sorted(folder.rglob("*.ndjson"))
        for li in p.read_text().splitlines()
    ]
    return sorted(({k: line[k] for k in kept if k in line} for line in lines), key=json.dumps)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_gives_what_is_expected_and_a_second_run_changes_nothing(
    name: str, tmp_path: Path
):
    work = tmp_path / "examples"
    shutil.copytree(
        EXAMPLES, work, ignore=shutil.ignore_patterns("out", ".dataflare", "__pycache__")
    )
    done = dataflare("run", f"{name}.yaml", cwd=work)
    assert done.returncode == 0, done.stderr
    found = results(work / "out")
    expected = EXAMPLES / "expected" / f"{name}.json"
    if os.environ.get("UPDATE_EXAMPLES"):
        expected.parent.mkdir(exist_ok=True)
        expected.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    assert found == json.loads(expected.read_text())
    again = dataflare("run", f"{name}.yaml", "--quiet", cwd=work)
    assert again.returncode == 0, again.stderr
    assert without_dead(results(work / "out")) == without_dead(found)


def without_dead(found: dict[str, Any]) -> dict[str, Any]:
    """Dead letters are kept, run after run; everything else is overwritten or upserted."""
    return {name: rows for name, rows in found.items() if name != "dead/"}


def test_the_examples_are_listed():
    listed = (EXAMPLES / "README.md").read_text()
    assert [name for name in NAMES if f"[{name}.yaml]" not in listed] == []
