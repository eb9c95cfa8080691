"""Each file of the state folder, damaged in each way: the next run notices it or it does not matter.

Law: the next run brings every row once; or it refuses by name and has written no row twice, and
`--fresh` begins again.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataflare import RunOptions, load, run
from dataflare.errors import DataFlareError
from dataflare.observability.door import DOOR

ROWS = 600
WORKFLOW = """\
name: w
version: "1.0"
settings: {parallelism: 1, checkpoint: {interval: 20ms}}
sources:
  numbers: {type: sqlite, config: {path: in.db, table: t, incremental: {column: id}, batch_size: 100}}
transformations:
  sums: {type: aggregate, inputs: [numbers], config: {group_by: ["id % 10"], measures: {n: "count(*)"}}}
destinations:
  table: {type: sqlite, inputs: [numbers], config: {path: out.db, table: t}}
  parts: {type: file, inputs: [numbers], config: {path: parts/, format: ndjson}}
  lines: {type: file, inputs: [numbers], config: {path: lines.csv, mode: append}}
  groups: {type: duckdb, inputs: [sums], config: {path: out.duckdb, table: g}}
"""
STATES = ("engine.before_commit:3", "run.finished:1")
"""Where the run is killed whose state is damaged."""


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x01]) + data[middle + 1 :]


DAMAGES = {
    "half": lambda data: data[: len(data) // 2],
    "flipped": flip,
}


@pytest.fixture(scope="module", params=STATES)
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    (folder / "w.yaml").write_text(WORKFLOW)
    add_rows(folder, 0, ROWS)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    if request.param:
        environ["DATAFLARE_CRASH_AT"] = request.param
    command = [sys.executable, "-m", "dataflare", "run", "w.yaml", "--quiet"]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
    assert done.returncode == (-signal.SIGKILL if request.param else 0), done.stderr
    return folder


def add_rows(folder: Path, first: int, end: int) -> None:
    with sqlite3.connect(folder / "in.db") as db:
        db.execute("create table if not exists t (id integer primary key)")
        db.executemany("insert into t values (?)", [(n,) for n in range(first, end)])


def damaged(folder: Path) -> Iterator[tuple[str, Path]]:
    """Copies of the folder, each with one thing of its state damaged."""
    home = folder / ".dataflare"
    number = 0

    def copy() -> Path:
        nonlocal number
        number += 1
        target = folder.with_name(f"{folder.name}-{number}")
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns(DOOR))
        return target

    paths = sorted(path.relative_to(folder) for path in home.rglob("*") if path.name != DOOR)
    for path in paths:
        target = copy()
        shutil.rmtree(target / path) if (target / path).is_dir() else (target / path).unlink()
        yield f"{path} deleted", target
    files = [path for path in paths if (folder / path).is_file()]
    for path in files:
        data = (folder / path).read_bytes()
        for name, damage in DAMAGES.items():
            if data and damage(data) != data:
                target = copy()
                (target / path).write_bytes(damage(data))
                yield f"{path} {name}", target
    for one in files:
        for other in files:
            if one < other and one.parent == other.parent and one.suffix == other.suffix:
                target = copy()
                (target / one).write_bytes((folder / other).read_bytes())
                (target / other).write_bytes((folder / one).read_bytes())
                yield f"{one} and {other} swapped", target


def written(folder: Path) -> dict[str, Counter[int]]:
    """How often each destination has each id."""
    found: dict[str, Counter[int]] = {"table": Counter(), "parts": Counter(), "lines": Counter()}
    if (folder / "out.db").exists():
        with sqlite3.connect(folder / "out.db") as db:
            if db.execute("select 1 from sqlite_master where name = 't'").fetchone():
                found["table"] = Counter(n for (n,) in db.execute("select id from t"))
    for part in (folder / "parts").glob("*.ndjson"):
        lines = part.read_text().splitlines()
        found["parts"].update(int(line.removeprefix('{"id":').rstrip("}")) for line in lines)
    if (folder / "lines.csv").exists():
        found["lines"] = Counter(map(int, (folder / "lines.csv").read_text().split()[1:]))
    return found


def run_here(folder: Path, *, fresh: bool = False) -> DataFlareError | None:
    options = RunOptions(home=folder / ".dataflare", fresh=fresh)
    try:
        return run(load(folder / "w.yaml"), options).error
    except DataFlareError as error:
        return error


@pytest.mark.rotates(2)
def test_each_damage_is_noticed_or_does_not_matter(killed: Path) -> None:
    outcomes: Counter[str] = Counter()
    for what, folder in damaged(killed):
        add_rows(folder, ROWS, ROWS + 5)
        before = written(folder)
        error = run_here(folder)
        if error is None and max(written(folder)["table"], default=0) < ROWS:
            error = run_here(folder)  # the first one had only to tell that the run had finished
        outcomes[error.code if error else "right"] += 1
        after = written(folder)
        for name, rows in after.items():
            assert set(rows.values()) <= {1}, f"{what}: {name} has rows twice"
        if error is None:
            assert all(len(rows) == ROWS + 5 for rows in after.values()), f"{what}: rows are lost"
        else:
            assert error.code != "E0900", f"{what}: {error.message}"
            assert all(before[name] <= rows for name, rows in after.items()), what
            again = run_here(folder, fresh=True)
            assert again is None, f"{what}, then --fresh: {again.code} {again.message}"
        shutil.rmtree(folder)
    assert outcomes["right"] > 5, outcomes
