"""The history of a table that a killed run makes from its log is the one that a trigger of the table has made."""

from __future__ import annotations

import datetime as dt
import random
import sqlite3
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psycopg
import pytest
from mirror_process import RunProcess
from mirror_servers import PostgresSide, side_of

_WORKFLOW = """\
name: shop
settings:
  mode: streaming
  checkpoint: {interval: 20ms}
  restart: {attempts: 1000, delay: 20ms, max_delay: 100ms}
sources:
  customers: {type: postgres, config: {connection_string: "${FROM}", table: customers, cdc: true}}
transformations:
  versions: {type: history, inputs: [customers], config: {key: id, time: updated}}
destinations:
  kept:
    type: sqlite
    inputs: [versions]
    config: {path: kept.db, table: kept, mode: upsert, key: [id, valid_from]}
"""
_TABLES = (
    "create table customers (id int primary key, name text, updated timestamp(6))",
    "alter table customers replica identity full",
    "create table versions (number bigserial, id int, name text, updated timestamp(6))",
    """create function touch() returns trigger language plpgsql as $$
    begin new.updated = clock_timestamp() at time zone 'UTC'; return new; end $$""",
    """create function keep() returns trigger language plpgsql as $$
    begin
      if tg_op = 'DELETE' or (tg_op = 'UPDATE' and old.id <> new.id) then
        insert into versions (id) values (old.id);
      end if;
      if tg_op <> 'DELETE' then
        insert into versions (id, name, updated) values (new.id, new.name, new.updated);
      end if;
      return null;
    end $$""",
    "create trigger touch before insert or update on customers for each row execute function touch()",
    "create trigger keep after insert or update or delete on customers for each row execute function keep()",
)
Version = tuple[str, dt.datetime]


def write(db: Any, rng: random.Random) -> None:
    """A transaction."""
    for _ in range(rng.randint(1, 5)):
        id_, other = rng.randrange(25), rng.randrange(25)
        match rng.randrange(8):
            case 0 | 1:
                insert = "insert into customers values (%s, %s) on conflict do nothing"
                db.execute(insert, (id_, f"n{other}"))
            case 2 | 3 | 4:
                db.execute(
                    "update customers set name = %s where id between %s and %s",
                    (f"n{rng.randrange(999)}", id_, id_ + 4),
                )
            case 5:
                db.execute("delete from customers where id = %s and id > 12", (id_,))
            case 6:
                move = "update customers set id = %s where id = %s and id > 12 and not exists (select from customers where id = %s)"
                db.execute(move, (other, id_, other))
            case _:
                db.execute("savepoint s")
                db.execute("update customers set name = 'never' where id < %s", (id_,))
                db.execute("rollback to savepoint s")
    if rng.random() < 0.85:
        db.commit()
    else:
        db.rollback()


def by_key(rows: list[tuple[Any, ...]]) -> dict[int, list[tuple[Any, ...]]]:
    grouped: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for id_, *rest in rows:
        grouped[id_].append(tuple(rest))
    return grouped


def is_within(part: list[Version], whole: list[Version]) -> bool:
    """Whether all of a list is in another one, in its order."""
    left = iter(whole)
    return all(each in left for each in part)


def kept(folder: Path) -> dict[int, list[tuple[Any, ...]]]:
    def time_of(text: str | None) -> dt.datetime | None:
        return None if text is None else dt.datetime.fromisoformat(text)

    with sqlite3.connect(folder / "kept.db") as db:
        rows = db.execute(
            "select id, name, updated, valid_from, valid_to, is_current from kept order by id, valid_from"
        ).fetchall()
    return by_key(
        [(id_, name, *map(time_of, times), bool(is_current)) for id_, name, *times, is_current in rows]
    )  # fmt: skip


def check(side: PostgresSide, folder: Path) -> None:
    told = by_key(side.rows("select id, name, updated from versions order by number"))
    there = {id_: row for id_, *row in side.rows("select id, name, updated from customers")}
    found = kept(folder)
    assert set(found) == set(told)
    for id_, versions in found.items():
        whole = [each for each in told[id_] if each[1] is not None]
        values = [(name, updated) for name, updated, *_ in versions]
        ends = [to for _, _, _, to, _ in versions]
        starts = [since for _, _, since, _, _ in versions]
        assert [is_current for *_, is_current in versions] == [to is None for to in ends]
        assert [each is None for each in ends[:-1]] == [False] * (len(ends) - 1)
        assert all(to <= since for to, since in zip(ends, starts[1:], strict=False))
        if len(whole) == len(told[id_]):
            # It was never away.
            assert values == whole
            assert starts == [updated for _, updated in whole]
            assert ends == [*starts[1:], None]
        else:
            # Behind a delete, which counts when it is read, versions may have no time of their own.
            assert is_within(values, whole)
        assert (ends[-1] is None) is (id_ in there)
        if id_ in there:
            assert list(values[-1]) == there[id_]


@pytest.mark.rotates(2)
@pytest.mark.parametrize("seed", range(4))
def test_a_history_is_that_of_a_trigger(
    servers_to_kill: dict[str, Any], tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    (tmp_path / "shop.yaml").write_text(_WORKFLOW)
    with side_of("postgres", servers_to_kill) as side:
        assert isinstance(side, PostgresSide)
        side.execute(*_TABLES)
        environment = {"FROM": side.server.dsn(side.name)}

        def run(*options: str) -> RunProcess:
            return RunProcess(tmp_path, ["shop.yaml", "--quiet", *options], environment, None)

        batch = ("--set", "settings.mode=batch")
        assert run(*batch).wait() == 0
        with psycopg.connect(side.server.dsn(side.name)) as db:
            for _ in range(3):
                process, end = run(), time.monotonic() + rng.uniform(0.4, 1.2)
                while time.monotonic() < end:
                    write(db, rng)
                process.kill()
        last = run(*batch)
        assert last.wait() == 0, last.errors()
        check(side, tmp_path)
