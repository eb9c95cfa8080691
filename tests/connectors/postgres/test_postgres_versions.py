"""A stream joined with a table of PostgreSQL as it was at each event's time: what a history made by the table's own triggers
says, also over kills. No row is joined before the table was read."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from postgres_kit import Database

from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, run
from dataflare.workflow.load import load_text

WORKFLOW = """\
name: versions
settings: {{mode: streaming, parallelism: 2, checkpoint: {{interval: 50ms}}}}
sources:
  views:
    type: generate
    config:
      rate: 300/s
      columns: {{view: {{sequence: 0}}, customer: {{int: [1, 8]}}, at: {{time: {{start: now}}}}}}
    event_time: {{column: at}}
  customers:
    type: postgres
    config: {{connection_string: "{dsn}", table: customers, cdc: {{metadata: [ts]}}}}
    event_time: {{column: _ts}}
transformations:
  named: {{type: join, inputs: [views, customers], config: {{kind: left, on: {{customer: id}}, temporal: {{}}}}}}
  late: {{type: map, inputs: [named.late], config: {{select: [view]}}}}
  old: {{type: map, inputs: [named.late_right], config: {{select: [id, name, _ts]}}}}
destinations:
  out: {{type: sqlite, inputs: [named], config: {{path: out.db, table: named}}}}
  too_old: {{type: sqlite, inputs: [old], config: {{path: old.db, table: old}}}}
  too_late: {{type: sqlite, inputs: [late], config: {{path: late.db, table: late}}}}
"""
TRIGGER = """
create table customers (id int primary key, name text not null);
create table history (number bigserial, id int, name text, at timestamptz, is_there bool, behind timestamptz);
create function keep() returns trigger language plpgsql as $$ begin
  if tg_op = 'DELETE' or (tg_op = 'UPDATE' and old.id <> new.id) then
    insert into history (id, at, is_there) values (old.id, clock_timestamp(), false);
  end if;
  if tg_op <> 'DELETE' then
    insert into history (id, name, at, is_there) values (new.id, new.name, clock_timestamp(), true);
  end if;
  return null;
end $$;
create trigger kept after insert or update or delete on customers for each row execute function keep();
"""
ENOUGH_S = 60


@pytest.fixture
def customers(logical: Database) -> Database:
    logical.execute(TRIGGER)
    return logical


@contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "DATAFLARE_HOME": str(folder / "home")}
    command = [sys.executable, "-m", "dataflare", "run", "versions.yaml", "--quiet"]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def until(folder: Path, process: subprocess.Popen[bytes], sql: str, *values: Any) -> None:
    """Wait until the query of what was written gives something."""
    end = time.monotonic() + ENOUGH_S
    while not written(folder, sql, *values):
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < end, (folder / "log").read_text()
        select_nothing()


def select_nothing() -> None:
    import select

    select.select([], [], [], 0.02)


def written(folder: Path, sql: str, *values: Any, file: str = "out.db") -> list[tuple[Any, ...]]:
    if not (folder / file).exists():
        return []
    with closing(sqlite3.connect(f"file:{folder / file}?mode=ro", uri=True)) as db:
        try:
            return db.execute(sql, values).fetchall()
        except sqlite3.OperationalError:
            return []


def change(database: Database, rng: random.Random) -> None:
    """One transaction."""
    a, b, name = rng.randrange(1, 9), rng.randrange(1, 9), f"n{rng.randrange(10**6)}"
    upsert = f"insert into customers values ({a}, '{name}') on conflict (id) do update set name = excluded.name"
    statements = {
        0: [f"delete from customers where id = {a}"],
        1: [
            f"delete from customers where id = {b}",
            f"update customers set id = {b} where id = {a}",
        ],
        2: [upsert, upsert.replace(name, f"{name}b")],
    }.get(rng.randrange(6), [upsert])
    with psycopg.connect(database.dsn) as db, db.transaction():
        for statement in statements:
            db.execute(statement)
    database.execute("update history set behind = clock_timestamp() where behind is null")


REFERENCE = """
select v.view, case when h.is_there then h.name end as name,
       exists (select 1 from history u where v.seen >= u.began and v.seen <= u.behind) as is_unsure, v.found
from views v asof left join history h on v.customer = h.id and v.seen >= h.began
"""


@pytest.mark.parametrize("kills", [0, pytest.param(3, marks=pytest.mark.rotates(3))])
def test_each_row_has_the_version_of_its_time(
    customers: Database, tmp_path: Path, kills: int
) -> None:
    rng = random.Random(kills)
    customers.execute(
        "insert into customers select n, 'first' || n from generate_series(1, 4) n",
        "update history set at = '1970-01-01Z', behind = '1970-01-01Z'",
    )
    (tmp_path / "versions.yaml").write_text(WORKFLOW.format(dsn=customers.dsn))
    for number in range(kills + 1):
        with running(tmp_path) as process:
            [(start,)] = customers.rows("select clock_timestamp()")
            until(tmp_path, process, "select 1 from named where at > ? limit 1", str(start)[:26])
            for _ in range(15):
                change(customers, rng)
            if number < kills:
                process.send_signal(signal.SIGKILL)
                process.wait()
                for _ in range(3):
                    change(customers, rng)
                continue
            [(end,)] = customers.rows("select clock_timestamp()")
            until(tmp_path, process, "select 1 from named where at > ? limit 1", str(end)[:26])
            process.send_signal(signal.SIGINT)
            assert process.wait() == 130, (tmp_path / "log").read_text()
    history = customers.rows("select id, name, at, behind, is_there from history order by number")
    views = written(tmp_path, "select view, customer, at, name from named")
    with duckdb.connect() as db:
        db.execute("set timezone = 'UTC'")
        db.execute(
            "create table history (id int, name text, began timestamptz, behind timestamptz, is_there bool)"
        )
        db.executemany("insert into history values (?, ?, ?, ?, ?)", history)
        db.execute(
            "create table views (view bigint, customer bigint, seen timestamptz, found text)"
        )
        db.executemany(
            "insert into views values (?, ?, ?::timestamptz, ?)",
            views,
        )
        rows = db.execute(REFERENCE).fetchall()
    wrong = [row for row in rows if not row[2] and row[1] != row[3]]
    sure = [row for row in rows if not row[2]]
    assert not wrong, wrong[:5]
    assert len(sure) > 100
    assert len({name for _, name, _, _ in sure}) > 8
    assert len({view for view, *_ in views}) == len(views)
    assert not written(tmp_path, "select * from late", file="late.db")
    assert not written(tmp_path, "select * from old", file="old.db")


def test_no_row_is_joined_before_the_table_was_read(customers: Database, tmp_path: Path) -> None:
    customers.execute("insert into customers select n, 'first' || n from generate_series(1, 8) n")
    text = WORKFLOW.replace("column: _ts", "column: _ts, idle_timeout: 20ms")
    (tmp_path / "versions.yaml").write_text(text.format(dsn=customers.dsn))
    with psycopg.connect(customers.dsn) as db, running(tmp_path) as process:
        # The slot waits for the end of this transaction, and the first read for the slot.
        db.execute("insert into customers values (9, 'open')")
        [(start,)] = customers.rows("select clock_timestamp()")
        end = time.monotonic() + ENOUGH_S
        while not customers.rows(
            "select 1 from pg_stat_activity where application_name like 'dataflare%' and wait_event_type = 'Lock' "
            "and clock_timestamp() - query_start > interval '300 ms'"
        ):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end
            select_nothing()
        assert not written(tmp_path, "select 1 from named")
        db.commit()
        until(tmp_path, process, "select 1 from named where at > ? limit 1", str(start)[:26])
        found = written(tmp_path, "select count(*), count(name) from named")
    assert found[0][0] == found[0][1] > 0


def test_what_is_not_known_by_the_key_is_refused(customers: Database, tmp_path: Path) -> None:
    for was, now in (("{customer: id}", "{customer: name}"), ("column: _ts", "column: seen")):
        text = WORKFLOW.format(dsn=customers.dsn).replace(was, now).replace("{int: [1, 8]}", "{choice: [a]}" if "name" in now else "{int: [1, 8]}")  # fmt: skip
        if "seen" in now:
            customers.execute("alter table customers add seen timestamptz")
        with pytest.raises(DataFlareError) as caught:
            run(load_text(text, base=tmp_path), RunOptions(tmp_path / "home", for_s=1))
        assert caught.value.code == "E0315"
        assert "event_time: {column: _ts}" in str(caught.value.help)


def test_the_example_gives_each_sale_a_price(logical: Database, tmp_path: Path) -> None:
    logical.execute(
        "create table prices (product int primary key, price numeric(10, 2))",
        "insert into prices values (1, 9.5), (2, 12), (3, 20)",
    )
    text = (Path(__file__).parents[3] / "examples/cdc/priced.yaml").read_text()
    (tmp_path / "versions.yaml").write_text(
        text.replace("${SHOP}", logical.dsn).replace("50/s", "500/s")
    )
    with running(tmp_path) as process:
        end = time.monotonic() + ENOUGH_S
        while written(tmp_path, "select count(*) from priced", file="sales.db") != [(200,)]:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            select_nothing()
    found = written(tmp_path, "select count(*) from priced where price is null", file="sales.db")
    assert found == [(0,)]
