"""Two libraries, one meaning; and no lock held for longer than a page."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "sql"))

from databases import Step, batch, execute, read, rows, run

from dataflare.connectors.sqlite.connection import AdbcConnection, Opened, StandardConnection
from dataflare.connectors.sqlite.source import SqliteSource
from dataflare.errors import DataError, DataFlareError
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.destination import Epoch

SCHEMA = Schema.of({"id": "int64", "v": "string"})


@pytest.fixture(params=["adbc", "standard"])
def library(request, tmp_path):
    """With a connection of the user's own to the file, ours are of the same library."""
    path = tmp_path / "data.db"
    execute("sqlite", path, "create table seed (i integer)")
    own = sqlite3.connect(path) if request.param == "standard" else None
    opened = Opened(path, mode="rw", busy_timeout_s=0)
    wanted = StandardConnection if request.param == "standard" else AdbcConnection
    assert isinstance(opened.db, wanted)
    opened.close()
    yield request.param
    if own is not None:
        own.close()


def test_both_libraries_fetch_and_store_alike(library, tmp_path):
    opened = Opened(tmp_path / "data.db", mode="rw", busy_timeout_s=0)
    db = opened.db
    frame = pl.DataFrame({"i": [1, None], "r": [1.5, None], "s": ["a", None], "b": [b"\x00", None]})
    db.execute("begin immediate")
    db.stage("staged", frame)
    db.execute("create table t (i integer, r real, s text, b blob)")
    db.append("t", frame)
    db.execute("insert into t select * from temp.staged where i = ?", (1,))
    assert db.frame("select * from t").to_dicts() == [*frame.to_dicts(), frame.to_dicts()[0]]
    mixed = db.frame("select 1 as x, null as n union all select 2.5, null")
    assert mixed.schema == {"x": pl.Float64, "n": pl.Int64}
    assert db.frame("select 1 as x union all select 'a'")["x"].to_list() == ["1", "a"]
    assert db.frame("select x'00' as x union all select 'a'")["x"].to_list() == [b"\x00", b"a"]
    assert db.frame("select * from t where 0").shape == (0, 4)
    db.execute("rollback")
    assert db.frame("select count(*) as n from sqlite_master where name = 't'")["n"].to_list() == [
        0
    ]
    opened.close()


def test_the_protocol_works_with_both(library, tmp_path):
    async def go():
        step = await Step("sqlite", tmp_path, SCHEMA, mode="upsert", key=["id"]).start()
        await step.epoch(1, batch([{"id": 1, "v": "a"}]))
        made = await step.prepare(2, batch([{"id": 1, "v": "b"}]), final=True)
        step.die()
        await step.commit(2, [made], final=True)
        await step.close()
        found, _ = await read("sqlite", tmp_path, table="t")
        assert found.rows() == [(1, "b")]
        bad = await Step("sqlite", tmp_path, SCHEMA, step="bad", table="seed2", key=["id"]).start()
        execute("sqlite", tmp_path / "data.db", "create table seed2 (id integer unique, v text)")
        with pytest.raises(DataError) as caught:
            await bad.prepare(1, batch([{"id": i, "v": "x"} for i in (5, 6, 7, 6, 8)]))
        assert caught.value.notes == ["the row: id = 6"]
        await bad.close()

    run(go())


def try_to_lock(path: Path) -> str:
    code = (
        "import sqlite3, sys\n"
        f"c = sqlite3.connect({str(path)!r}, timeout=0, isolation_level=None)\n"
        "try:\n c.execute('begin exclusive'); c.execute('insert into log values (1)'); c.execute('commit')\n"
        "except sqlite3.OperationalError as e: print(e)\n"
        "else: print('free')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "config",
    [
        {"table": "t"},
        {"query": "select id from t"},
        {"table": "t", "incremental": {"column": "id"}},
    ],
)
def test_other_processes_may_write_between_two_pages(tmp_path, config):
    execute(
        "sqlite", tmp_path / "data.db", "create table t (id integer primary key)",
        "create table log (i)", "insert into t values (1), (2), (3)",
    )  # fmt: skip

    async def go():
        one = SqliteSource(
            SqliteSource.Config(path="data.db", **config), ConnectorContext("in", tmp_path)
        )
        (split,) = await one.splits()
        reader = await one.open(split, None)
        await reader.read_batch(1)
        assert try_to_lock(tmp_path / "data.db") == "free"
        await reader.read_batch(1)
        await reader.aclose()

    run(go())


def test_the_file_is_locked_from_prepare_to_commit_only(tmp_path):
    path = tmp_path / "data.db"
    execute("sqlite", path, "create table log (i)")

    async def go():
        step = await Step("sqlite", tmp_path, SCHEMA).start()
        await step.writer.write_batch(batch([{"id": 1, "v": "a"}]))
        assert try_to_lock(path) == "free"
        made = await step.writer.prepare(1, final=False)
        assert try_to_lock(path) == "database is locked"
        await step.committer.commit(Epoch(1, "{}"), [made])
        assert try_to_lock(path) == "free"
        await step.prepare(2, batch([{"id": 2, "v": "a"}]))
        await step.close()
        assert try_to_lock(path) == "free"

    run(go())


def test_the_journal_mode_of_a_database_is_left_alone(tmp_path):
    path = tmp_path / "data.db"
    execute("sqlite", path, "pragma journal_mode = wal", "create table log (i)")

    async def go():
        step = await Step("sqlite", tmp_path, SCHEMA).start()
        await step.epoch(1, batch([{"id": 1, "v": "a"}]), final=True)
        await step.close()

    run(go())
    assert rows("sqlite", path, "pragma journal_mode") == [("wal",)]


@pytest.mark.parametrize(
    ("ddl", "schema"),
    [
        ("create table t (id integer, v integer)", {"id": "int64", "v": "binary"}),
        ("create table t (id integer, v real)", {"id": "int64", "v": "date"}),
        ("create table t (id timestamp, v text)", {"id": "bool", "v": "string"}),
    ],
)
def test_values_that_a_column_would_swallow_wrongly_are_refused_at_once(tmp_path, ddl, schema):
    execute("sqlite", tmp_path / "data.db", ddl)
    step = Step("sqlite", tmp_path, Schema.of(schema))
    with pytest.raises(DataFlareError) as caught:
        run(step.destination.validate(Schema.of(schema)))
    assert caught.value.code == "E0511"


def test_an_integer_too_great_for_a_column_is_refused(tmp_path):
    execute("sqlite", tmp_path / "data.db", "create table t (u integer)")

    async def go():
        step = await Step("sqlite", tmp_path, Schema.of({"u": "uint64"})).start()
        await step.epoch(1, batch([{"u": 5}], u=pl.UInt64))
        with pytest.raises(DataError) as caught:
            await step.prepare(2, batch([{"u": 2**63}], u=pl.UInt64))
        assert caught.value.code == "E0511"
        await step.close()

    run(go())


def test_a_strict_table_refuses_what_it_cannot_store(tmp_path):
    execute("sqlite", tmp_path / "data.db", "create table t (i any, b blob) strict")

    async def go():
        step = await Step("sqlite", tmp_path, Schema.of({"i": "int64", "b": "string"})).start()
        with pytest.raises(DataError) as caught:
            await step.prepare(1, batch([{"i": 1, "b": "text"}]))
        assert caught.value.code == "E0511"
        await step.close()

    run(go())
