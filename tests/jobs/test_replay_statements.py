"""A replay of dead letters does not run the statements around a whole run: one may empty the table."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

WORKFLOW = """\
name: orders
settings: {error_handling: {on_error: dead_letter}}
sources: {rows: {type: inline, config: {rows: [{id: 1}, {id: 2}]}}}
destinations:
  out: {type: sqlite, inputs: [rows], config: {path: out.db, table: t,
        before_sql: ["delete from t"], after_sql: ["insert into log values ('after')"]}}
"""


def dataflare(folder: Path, *arguments: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    done = subprocess.run([sys.executable, "-m", "dataflare", *arguments], cwd=folder, text=True,
                          capture_output=True, env=environment, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_replay_runs_neither_of_them(tmp_path: Path):
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    with sqlite3.connect(tmp_path / "out.db") as db:
        db.execute("create table t (id int check (id <> 2))")
        db.execute("create table log (what text)")
    dataflare(tmp_path, "run", "w.yaml", "--quiet")
    with sqlite3.connect(tmp_path / "out.db") as db:
        assert db.execute("select * from t").fetchall() == [(1,)]
        db.execute("alter table t rename to old")
        db.execute("create table t as select * from old")
    dataflare(tmp_path, "dlq", "replay", "orders")
    with sqlite3.connect(tmp_path / "out.db") as db:
        assert db.execute("select id from t order by id").fetchall() == [(1,), (2,)]
        assert db.execute("select * from log").fetchall() == [("after",)]
