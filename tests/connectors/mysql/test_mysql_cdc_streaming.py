"""Changes are followed without an end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from binlog_kit import Plain, left, rows_of
from msgspec import structs
from mysql_kit import Database, drain, run
from servers import mariadb as servers

from dataflare.connectors.mysql.cdc import log as logs
from dataflare.connectors.mysql.cdc import reader as readers
from dataflare.errors import DataFlareError, Retry
from dataflare.model.batch import RowKind

INSERT = RowKind.INSERT
CREATE = "create table t (id int primary key, v varchar(20))"


def test_changes_come_while_the_reader_waits(plain: Database) -> None:
    plain.execute(CREATE, "insert into t values (1, 'a')")

    async def check() -> None:
        source = plain.source(table="t", cdc=True)
        await source.schema()
        [split] = await source.splits()
        reader = await source.open(split, None)
        assert rows_of([(await reader.read_batch(10)).frame]) == [(INSERT, 1, "a")]
        reading = asyncio.ensure_future(reader.read_batch(10))
        plain.execute("insert into t values (2, 'b')")
        batch = await reading
        assert (rows_of([batch.frame]), batch.may_cut) == ([(INSERT, 2, "b")], True)
        waiting = asyncio.ensure_future(reader.read_batch(10))
        await asyncio.sleep(0)
        waiting.cancel()
        await reader.aclose()

    run(check())


def test_the_position_moves_while_the_table_rests(
    plain: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the server may remove its log."""
    monkeypatch.setattr(readers, "_MOVE_S", 0.0)
    monkeypatch.setattr(logs, "_WAIT_S", 0.05)
    plain.execute(CREATE, "create table other (id int)")

    async def check() -> None:
        source = plain.source(table="t", cdc={"snapshot": "never"})
        await source.schema()
        [split] = await source.splits()
        reader = await source.open(split, None)
        before = reader.position().value
        plain.execute("insert into other values (1)")
        while reader.position().value["gtid"] == before["gtid"]:
            assert (await reader.read_batch(10)).num_rows == 0
        await reader.aclose()
        plain.execute("insert into t values (1, 'a')")
        again = await source.open(split, reader.position())
        found = []
        while not found:
            found = rows_of([(await again.read_batch(10)).frame])
        assert found == [(INSERT, 1, "a")]
        await again.aclose()

    run(check())


def test_a_preview_ends_with_what_is_there(plain: Database) -> None:
    plain.execute(CREATE, "insert into t values (1, 'a')")

    async def check() -> None:
        source = plain.source(table="t", cdc=True)
        source.context = structs.replace(source.context, folder=None)
        await source.schema()
        [split] = await source.splits()
        frames, _ = await drain(source, split, None)
        assert rows_of(frames) == [(INSERT, 1, "a")]

    run(check())


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[Plain]:
    """A separate server for this test, to be killed."""
    with servers.server() as made:
        yield Plain(made, "test", tmp_path)


def test_a_server_that_dies_is_followed_again(doomed: Plain) -> None:
    doomed.execute(CREATE)

    async def check() -> None:
        source = doomed.source(table="t", cdc=True)
        await source.schema()
        [split] = await source.splits()
        position, found = None, []
        for round_ in range(3):
            reader = await source.open(split, position)
            doomed.execute(f"insert into t values ({round_}, 'x')", f"update t set v = '{round_}'")
            while (round_, f"{round_}") not in [tuple(row) for _, *row in found]:
                found += rows_of([(await reader.read_batch(100)).frame])
            position = reader.position()
            doomed.server.kill()
            with pytest.raises(DataFlareError) as caught:
                await reader.read_batch(100)
            assert (caught.value.code, caught.value.retry) == ("E0607", Retry.LATER)
            await reader.aclose()
            doomed.server.start()
        assert left(found) == {(number, "2"): 1 for number in range(3)}

    run(check())
