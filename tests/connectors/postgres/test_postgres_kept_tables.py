"""Tables that are kept ready from one epoch to the next: altered meanwhile, altered under the rows, behind a pooler."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from postgres_kit import Database, batch, run

from dataflare.connectors.postgres.ready import ReadyTables
from dataflare.connectors.postgres.store import PostgresStore
from dataflare.errors import DataError, SystemError_
from dataflare.model.types import Schema

SCHEMA = Schema.of({"id": "int64", "v": "string"})


def row(number: int, text: str | None = "x") -> Any:
    return batch([{"id": number, "v": text}], id=pl.Int64(), v=pl.String())


MODES = [
    ("append", {}),
    ("upsert", {"mode": "upsert", "key": ["id"]}),
    ("mirror", {"mode": "mirror", "key": ["id"]}),
]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tables that were looked up."""
    found: list[str] = []
    original = ReadyTables.make_ready

    def make_ready(self: Any, target: Any, asked: Any) -> Any:
        found.append(target.table)
        return original(self, target, asked)

    monkeypatch.setattr(ReadyTables, "make_ready", make_ready)
    return found


@pytest.mark.parametrize(("name", "config"), MODES)
def test_a_table_is_looked_up_once(
    database: Database, looks: list[str], name: str, config: dict[str, Any]
) -> None:
    async def go() -> None:
        step = await database.step(SCHEMA, **config).start()
        for number in range(1, 5):
            await step.epoch(number, row(number))
        await step.close()

    run(go())
    assert looks == ["t"]
    assert database.rows("select id from t order by id") == [(1,), (2,), (3,), (4,)]


@pytest.mark.parametrize(("name", "config"), MODES)
@pytest.mark.parametrize(
    "statement",
    [
        "alter table t drop column v",
        "alter table t rename column v to w",
        "alter table t rename to other",
        "drop table t",
        "create index on t (v)",
        "alter table t alter column v type varchar(3)",
        "alter table t add column w text not null default 'w'",
        "truncate t",
    ],
)
def test_a_table_that_is_altered_between_two_epochs_is_looked_up_again(
    database: Database, looks: list[str], statement: str, name: str, config: dict[str, Any]
) -> None:
    async def go() -> None:
        step = await database.step(SCHEMA, **config).start()
        await step.epoch(1, row(1))
        database.execute(statement)
        await step.epoch(2, row(2), row(3))
        await step.epoch(3, row(4))
        await step.close()

    run(go())
    assert looks == ["t", "t"]
    late = database.rows("select id, v from t where id > 1 order by id")
    assert late == [(2, "x"), (3, "x"), (4, "x")]


@pytest.mark.parametrize(("name", "config"), MODES[1:])
@pytest.mark.parametrize("moment", ["a row is staged", "a row is known to be refused"])
def test_a_table_that_is_altered_under_its_rows_is_looked_up_again(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    config: dict[str, Any],
    moment: str,
) -> None:
    """A value that the column would round now is never rounded; a column that went comes again."""
    database.execute("create table t (id bigint primary key, n numeric(10, 4), v text)")
    schema = Schema.of({"id": "int64", "n": "decimal(10, 4)", "v": "string"})
    statement = (
        "alter table t alter column n type numeric(10, 2)"
        if moment == "a row is staged"
        else "alter table t drop column v"
    )
    waiting = [statement]
    original = PostgresStore._merge

    def merge(self: Any, ready: Any, **more: Any) -> bool:
        if ready.staged and self._kept and waiting:
            database.execute(waiting.pop())
        return original(self, ready, **more)

    monkeypatch.setattr(PostgresStore, "_merge", merge)

    def rows(number: int, n: str) -> Any:
        frame = pl.DataFrame(
            {"id": [number], "n": [Decimal(n)], "v": ["x"]},
            schema={"id": pl.Int64(), "n": pl.Decimal(10, 4), "v": pl.String()},
        )
        return batch(frame.to_dicts(), **frame.schema)

    async def go() -> None:
        step = await database.step(schema, **config).start()
        await step.epoch(1, rows(1, "1.2345"))
        if moment == "a row is staged":
            with pytest.raises(DataError) as caught:
                await step.epoch(2, rows(2, "2.3456"))
            assert caught.value.code == "E0511"
        else:
            await step.epoch(2, rows(2, "2.3456"))
            await step.epoch(3, rows(3, "3"))
        await step.close()

    run(go())
    assert not waiting
    if moment != "a row is staged":
        assert database.rows("select id, v from t order by id") == [(1, None), (2, "x"), (3, "x")]
    else:
        assert database.rows("select id from t") == [(1,)]


def test_a_table_that_becomes_a_view_is_refused(database: Database) -> None:
    database.execute("create table t (id bigint primary key, v text)")

    async def go() -> None:
        step = await database.step(SCHEMA, mode="mirror", key=["id"]).start()
        await step.epoch(1, row(1))
        database.execute("alter table t rename to u", "create view t as select * from u")
        with pytest.raises(SystemError_):
            await step.epoch(2, row(2))
        await step.close()

    run(go())
    assert database.rows("select id from u") == [(1,)]


@pytest.mark.parametrize(("name", "config"), MODES)
def test_behind_a_pooler_nothing_is_kept(
    database: Database,
    looks: list[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    config: dict[str, Any],
) -> None:
    """It gives each transaction another session, and tells the client a process id of its own."""
    original = ReadyTables.enter
    monkeypatch.setattr(ReadyTables, "enter", lambda self, pid: original(self, pid + 1_000_000))

    async def go() -> list[Any]:
        step = await database.step(SCHEMA, **config).start()
        for number in range(1, 4):
            await step.epoch(number, row(number))
        left = database.rows("select relname from pg_class where relname like '_dataflare_stage%'")
        await step.close()
        return left

    left = run(go())
    assert left == []
    assert looks == ["t", "t", "t"]
    assert database.rows("select id from t order by id") == [(1,), (2,), (3,)]


def test_rows_of_a_table_that_grows_and_is_kept(database: Database, looks: list[str]) -> None:
    async def go() -> None:
        step = await database.step(SCHEMA, mode="mirror", key=["id"]).start()
        await step.epoch(1, row(1))
        await step.epoch(2, batch([{"id": 2, "v": "x", "w": 5}]))
        await step.epoch(3, batch([{"id": 3, "v": "x", "w": 6}]), row(4))
        await step.close()

    run(go())
    assert looks == ["t", "t"]
    assert database.rows("select * from t order by id") == [
        (1, "x", None),
        (2, "x", 5),
        (3, "x", 6),
        (4, "x", None),
    ]


def test_deletes_and_rows_of_one_key_over_several_epochs(database: Database) -> None:
    """What an earlier epoch has staged does not come again."""
    insert, delete = 0, 3

    async def go() -> None:
        step = await database.step(SCHEMA, mode="mirror", key=["id"], batch_size=1).start()
        await step.epoch(1, row(1), row(2))
        await step.epoch(2, batch([{"id": 1, "v": "x"}], [delete]))
        await step.epoch(3, row(3))
        await step.epoch(4, row(1, "again"), batch([{"id": 3, "v": "x"}], [delete]))
        await step.epoch(5, batch([{"id": 3, "v": "last"}], [insert]))
        await step.close()

    run(go())
    assert database.rows("select id, v from t order by id") == [
        (1, "again"),
        (2, "x"),
        (3, "last"),
    ]


def test_tables_of_an_epoch_have_its_manifest_once(database: Database) -> None:
    """Each marker is read with it."""

    async def go() -> None:
        steps = [
            await database.step(
                SCHEMA, step=f"s{n}", table=f"t{n}", mode="mirror", key=["id"]
            ).start()
            for n in range(3)
        ]
        made = [await step.prepare(1, row(1)) for step in steps]
        for step, each in zip(steps, made, strict=True):
            await step.commit(1, [each])
        counted = database.rows(
            "select count(*), count(manifest) from _dataflare_epochs where epoch = 1"
        )
        assert counted == [(3, 1)]
        for step in steps:
            found = await step.committer.marker()
            assert found is not None
            assert (found.epoch, found.manifest) == (1, '{"epoch": 1}')
        await steps[2].epoch(2, row(2))
        newest = await steps[2].committer.marker()
        assert newest is not None
        assert newest.manifest == '{"epoch": 2}'
        for step in steps:
            await step.close()

    run(go())
