"""A new run that reads only new rows goes on from what its steps kept: several runs give what one run over all rows
gives."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dataflare import RunOptions, RunResult, load, run

WORKFLOW = """\
name: going
version: "1.0"
settings: {{parallelism: {parallelism}, state: {{backend: {backend}}}}}
sources:
  orders: {{type: sqlite, config: {{path: in.db, table: orders, {orders}}}}}
  payments: {{type: sqlite, config: {{path: in.db, table: payments, incremental: {{column: id}}}}}}
transformations:
  totals:
    type: aggregate
    inputs: [orders]
    config: {{group_by: [k], emit: updates, measures: {{n: "count(*)", {measure}: "max(v)"}}}}
  by_size: {{type: aggregate, inputs: [totals], config: {{group_by: [n], emit: updates, measures: {{groups: "count(*)", low: "min(most)"}}}}}}
  paid: {{type: join, inputs: [totals, payments], config: {{kind: inner, on: [k], ttl: 7d}}}}
destinations:
  sums: {{type: sqlite, inputs: [totals], config: {{path: out.db, table: sums, mode: mirror, key: [k]}}}}
  sizes: {{type: sqlite, inputs: [by_size], config: {{path: out.db, table: sizes, mode: mirror, key: [n]}}}}
  joined: {{type: sqlite, inputs: [paid], config: {{path: out.db, table: joined, mode: mirror, key: [k, id]}}}}
"""


class Project:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        with closing(sqlite3.connect(folder / "in.db")) as db:
            db.execute("create table orders (id integer primary key, k integer, v integer)")
            db.execute("create table payments (id integer primary key, k integer)")
        self.write()

    def write(self, **changes: Any) -> None:
        facts = {"parallelism": 2, "backend": "memory", "measure": "most"}
        facts["orders"] = "incremental: {column: id}"
        (self.folder / "w.yaml").write_text(WORKFLOW.format(**{**facts, **changes}))

    def put(self, table: str, rows: list[tuple[int, ...]]) -> None:
        with closing(sqlite3.connect(self.folder / "in.db")) as db, db:
            marks = ", ".join("?" * (3 if table == "orders" else 2))
            db.executemany(f"insert into {table} values ({marks})", rows)

    def run(self, *, accept_changes: bool = False) -> RunResult:
        result = self.try_to_run(accept_changes=accept_changes)
        assert result.error is None, result.error
        return result

    def try_to_run(self, *, accept_changes: bool = False) -> RunResult:
        options = RunOptions(home=self.folder / ".dataflare", accept_changes=accept_changes)
        return run(load(self.folder / "w.yaml"), options)

    def rows(self) -> dict[str, list[Any]]:
        with closing(sqlite3.connect(self.folder / "out.db")) as db:
            tables = {
                "sums": "select k, n, most from sums order by 1",
                "sizes": "select n, groups, low from sizes order by 1",
                "joined": "select k, n, most, id from joined order by 1, 4",
            }
            return {name: db.execute(query).fetchall() for name, query in tables.items()}


def expected(orders: list[tuple[int, ...]], payments: list[tuple[int, ...]]) -> dict[str, Any]:
    groups: dict[int, list[int]] = {}
    for _, k, v in orders:
        groups.setdefault(k, []).append(v)
    sums = sorted((k, len(values), max(values)) for k, values in groups.items())
    sizes: dict[int, list[int]] = {}
    for _, n, most in sums:
        sizes.setdefault(n, []).append(most)
    joined = []
    for k, n, most in sums:
        joined += [(k, n, most, i) for i, other in payments if other == k]
    return {
        "sums": sums,
        "sizes": sorted((n, len(each), min(each)) for n, each in sizes.items()),
        "joined": joined,
    }


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
def test_several_runs_give_what_one_run_gives(tmp_path: Path, backend: str) -> None:
    random, project = Random(backend), Project(tmp_path)
    orders: list[tuple[int, ...]] = []
    payments: list[tuple[int, ...]] = []
    for number in range(4):
        new = [(len(orders) + i, random.randrange(6), random.randrange(50)) for i in range(9)]
        paid = [(len(payments) + i, random.randrange(6)) for i in range(2)]
        if number == 2:  # a run that finds nothing new keeps what it has
            new, paid = [], []
        project.put("orders", new)
        project.put("payments", paid)
        orders, payments = orders + new, payments + paid
        project.write(backend=backend, parallelism=random.randint(1, 3))
        result = project.run()
        assert not [w for w in result.warnings if "anew" in w]
        assert project.rows() == expected(orders, payments)


def test_a_killed_second_run_goes_on_too(tmp_path: Path) -> None:
    project = Project(tmp_path)
    orders = [(i, i % 5, i) for i in range(20)]
    project.put("orders", orders[:12])
    project.run()
    project.put("orders", orders[12:])
    for point in ("engine.before_manifest", "engine.after_manifest"):
        environment = {**os.environ, "DATAFLARE_CRASH_AT": point}
        command = [sys.executable, "-m", "dataflare", "run", "w.yaml"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
    project.run()
    assert project.rows() == expected(orders, [])


def test_what_cannot_go_on_is_refused_and_goes_on_anew_where_the_user_accepts_it(
    tmp_path: Path,
) -> None:
    project = Project(tmp_path)
    project.put("orders", [(1, 1, 5), (2, 2, 6)])
    project.run()
    before = project.rows()
    project.put("orders", [(3, 1, 7)])
    original = (tmp_path / "w.yaml").read_text()
    (tmp_path / "w.yaml").write_text(original.replace('"max(v)"', '"min(v)"'))
    for _ in range(2):  # the second try is refused like the first
        error = project.try_to_run().error
        assert error is not None
        assert (error.code, error.step) == ("E0812", "totals")
        assert "--fresh" in str(error.help)
        assert project.rows() == before
    (warning,) = (each for each in project.run(accept_changes=True).warnings if "'totals'" in each)
    assert "begins anew, because it has changed since the run before" in warning


def test_a_refused_run_keeps_the_state_for_the_steps_as_they_were(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.put("orders", [(1, 1, 5), (2, 2, 6)])
    project.run()
    project.put("orders", [(3, 1, 7)])
    original = (tmp_path / "w.yaml").read_text()
    (tmp_path / "w.yaml").write_text(original.replace('"max(v)"', '"min(v)"'))
    assert project.try_to_run().error is not None
    (tmp_path / "w.yaml").write_text(original)
    project.run()
    assert project.rows() == expected([(1, 1, 5), (2, 2, 6), (3, 1, 7)], [])


def test_a_source_that_is_read_whole_begins_anew(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write(orders="")
    project.put("orders", [(1, 1, 5), (2, 2, 6)])
    project.run()
    project.put("orders", [(3, 1, 7)])
    project.run()
    assert project.rows()["sums"] == [(1, 2, 7), (2, 1, 6)]


def test_a_key_that_an_earlier_run_saw_comes_no_second_time(tmp_path: Path) -> None:
    random, project = Random(3), Project(tmp_path)
    (tmp_path / "w.yaml").write_text(
        """\
name: once
version: "1.0"
sources: {orders: {type: sqlite, config: {path: in.db, table: orders, incremental: {column: id}}}}
transformations: {once: {type: deduplicate, inputs: [orders], config: {key: [k]}}}
destinations: {out: {type: sqlite, inputs: [once], config: {path: out.db, table: t}}}
"""
    )
    orders: list[tuple[int, ...]] = []
    for _ in range(4):
        new = [(len(orders) + i, random.randrange(20), 0) for i in range(9)]
        project.put("orders", new)
        orders += new
        assert not project.run().warnings
    first = {k: i for i, k, _ in reversed(orders)}
    with closing(sqlite3.connect(tmp_path / "out.db")) as db:
        assert db.execute("select id, k from t order by id").fetchall() == sorted(
            (i, k) for k, i in first.items()
        )


def test_a_mirror_whose_table_is_gone_is_noticed_and_one_that_is_empty_is_not(
    tmp_path: Path,
) -> None:
    project = Project(tmp_path)
    project.put("orders", [(1, 1, 5)])
    project.run()
    with closing(sqlite3.connect(tmp_path / "out.db")) as db, db:
        db.execute("delete from joined")
    project.put("orders", [(2, 1, 7)])
    project.run()
    with closing(sqlite3.connect(tmp_path / "out.db")) as db, db:
        db.execute("drop table sums")
    error = run(load(tmp_path / "w.yaml"), RunOptions(home=tmp_path / ".dataflare")).error
    assert error is not None
    assert (error.code, error.step) == ("E0807", "sums")
