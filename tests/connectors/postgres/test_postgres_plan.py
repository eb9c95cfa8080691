"""`dataflare plan` lists the splits of a table of a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from postgres_kit import Database
from servers.postgres import PASSWORD

FLOW = """\
name: cut
sources:
  rows:
    type: postgres
    config: {{connection_string: "${{secret:PG}}", table: t, sharding: {sharding}}}
destinations:
  out: {{type: blackhole, inputs: [rows]}}
"""
FILLED = [
    "create table t (id int primary key, at timestamptz)",
    "insert into t select i, '2026-01-15 12:00+00'::timestamptz + i * interval '1 day' "
    "from generate_series(1, 300) i",
    "insert into t values (301, null)",
    "analyze t",
]


def planned(database: Database, sharding: str, *options: str) -> str:
    (database.folder / "cut.yaml").write_text(FLOW.format(sharding=sharding))
    done = subprocess.run(
        [sys.executable, "-m", "dataflare", "plan", "cut.yaml", *options],
        cwd=database.folder, env={**os.environ, "PG": database.dsn}, text=True,
        capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("sharding", "count", "by"),
    [
        ("{by: time, column: at, every: month}", 11, "month of at"),
        ("{by: time, column: at, every: 1d}", 300, "day of at"),
        ("{by: range, splits: 4}", 4, "range of the key"),
        ("{by: range, column: id, boundaries: [10, 200]}", 3, "range of id"),
        ("{by: hash, column: id, splits: 7}", 7, "hash of id"),
        ("{by: ctid, splits: 2}", 2, "blocks (ctid)"),
        ("{by: range, column: at, splits: 1}", 1, "range of at"),
    ],
)
def test_a_plan_counts_the_splits_that_were_asked_for(database: Database, sharding, count, by):
    database.execute(*FILLED)
    found = json.loads(planned(database, sharding, "--format", "json"))
    (rows,) = [node for node in found["nodes"] if node["id"] == "rows"]
    assert rows["splits"] == {"count": count, "by": by}


def test_a_plan_shows_the_splits_to_people_and_leaves_no_connection(database: Database):
    database.execute(*FILLED)
    assert "11 splits by month of at" in planned(database, "{by: time, column: at, every: month}")
    open_ones = "select count(*) from pg_stat_activity where application_name like 'dataflare%'"
    assert database.rows(f"{open_ones} and datname = '{database.name}'") == [(0,)]
