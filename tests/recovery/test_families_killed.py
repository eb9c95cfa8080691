"""Many tables: a run that is killed goes on, and each table has each row once, whichever table was committed."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.rotates(2)

WORKFLOW = """\
name: family
settings: {parallelism: 2, checkpoint: {interval: 5ms}, batch: {initial: 100, max: 100}}
sources: {shop: {type: sqlite, config: {path: shop.db, tables: ["*"], batch_size: 100}}}
transformations: {plain: {type: map, inputs: [shop], config: {drop: ["secret_*"]}}}
destinations:
  added: {type: sqlite, inputs: [plain], config: {path: copy.db, table: "{table}"}}
  kept: {type: sqlite, inputs: [plain], config: {path: kept.db, table: "{table}", mode: upsert}}
  files: {type: file, inputs: [plain], config: {path: "out/{table}", format: csv}}
"""
ROWS = {"orders": 3_000, "items": 1_500, "Order Details": 10}
POINTS = [
    "engine.before_manifest",
    "engine.after_manifest",
    "engine.before_commit",
    "engine.after_commit",
    "sqlite.commit.before_commit",
    "sqlite.commit.after_commit",
    "run.finished",
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        for name, rows in ROWS.items():
            db.execute(f'create table "{name}"(id integer primary key, n integer, secret_x text)')
            values = [(n, n * n, "s") for n in range(rows)]
            db.executemany(f'insert into "{name}" values (?, ?, ?)', values)
        db.commit()
    return tmp_path


def start(project: Path, crash_at: str | None = None) -> int:
    environment = {k: v for k, v in os.environ.items() if k != "DATAFLARE_HOME"}
    if crash_at is not None:
        environment["DATAFLARE_CRASH_AT"] = crash_at
    command = [sys.executable, "-m", "dataflare", "run", "w.yaml", "--quiet"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def contents(project: Path) -> dict[str, Any]:
    found = {}
    for name in ROWS:
        for file in ("copy.db", "kept.db"):
            with contextlib.closing(sqlite3.connect(project / file)) as db:
                found[f"{file} {name}"] = db.execute(
                    f'select id, n from "{name}" order by id'
                ).fetchall()
        parts = (project / "out" / name).glob("part-*.csv")
        lines = [line for part in parts for line in part.read_text().splitlines()[1:]]
        found[f"files {name}"] = sorted(tuple(map(int, line.split(","))) for line in lines)
    return found


@pytest.mark.parametrize("time", [1, 3])
@pytest.mark.parametrize("point", POINTS)
def test_each_table_has_each_row_once(project: Path, point: str, time: int) -> None:
    ended = start(project, f"{point}:{time}")
    assert ended == -signal.SIGKILL or time > 1, f"the run never came to {point}"
    if ended == -signal.SIGKILL:
        assert start(project) == 0
    for place, rows in contents(project).items():
        name = place.partition(" ")[2]
        assert rows == [(n, n * n) for n in range(ROWS[name])], place
