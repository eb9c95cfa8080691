"""A run goes on at another server by the ids of transactions (GTID): nothing is missing, and nothing comes twice."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from binlog_kit import Follower, Plain, left, rows_of
from mysql_kit import drain
from servers import mariadb
from servers.mariadb import PASSWORD, MariaDbServer

from dataflare.connectors.mysql.cdc import dump
from dataflare.connectors.mysql.cdc import log as logs
from dataflare.errors import DataFlareError
from dataflare.model.progress import Position

_SYNC_S = 20.0
TABLE = "create table t (id int primary key, v varchar(20)) character set utf8mb4"


class Pair:
    """A primary, and a replica that writes to its own log what it receives."""

    def __init__(self, first: MariaDbServer, second: MariaDbServer, folder: Path) -> None:
        self.first, self.second = Plain(first, "shop", folder), Plain(second, "shop", folder)
        self._wholes = Plain(first, "test", folder), Plain(second, "test", folder)
        self._wholes[1].execute(
            "reset master",
            "set global gtid_slave_pos = ''",
            f"change master to master_host = '127.0.0.1', master_port = {first.port}, master_user = '{first.user}', "
            f"master_password = '{PASSWORD}', master_use_gtid = slave_pos",
            "start slave",
        )
        self._wholes[0].execute("create database shop")

    def synchronise(self) -> None:
        """Wait until the replica has what the primary has."""
        first, second = self._wholes
        [(position,)] = first.rows("select @@gtid_binlog_pos")
        assert second.rows(f"select master_gtid_wait('{position}', {_SYNC_S})") == [(0,)]

    def promote(self) -> None:
        """The first is lost, and the second takes its place."""
        self.first.server.kill()
        self._wholes[1].execute("stop slave", "reset slave all")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with (
        mariadb.server() as first,
        mariadb.server("--server-id=8", "--log-bin=other", "--log-slave-updates") as second,
    ):
        yield Pair(first, second, tmp_path)


def test_a_run_goes_on_at_the_replica_that_became_the_primary(pair: Pair) -> None:
    first, second = pair.first, pair.second
    first.execute(TABLE, "insert into t values (1, 'a'), (2, 'b')")
    pair.synchronise()

    async def check() -> None:
        # The files of the logs have other names, and their places are others.
        follower = Follower(first, "t")
        found = await follower.read()
        first.execute("insert into t values (3, 'c')", "update t set v = 'x' where id = 1")
        pair.synchronise()
        found += await follower.read()
        first.execute("insert into t values (4, 'unread')")
        pair.synchronise()
        pair.promote()
        second.execute(
            "delete from t where id = 2", "flush binary logs", "insert into t values (5, 'new')"
        )
        follower.database = second
        found += await follower.read()
        assert follower.carried["file"].startswith("other.")
        second.execute("update t set v = 'z' where id = 5")
        found += await follower.read()
        assert await follower.read() == []
        assert left(found) == Counter(second.rows("select * from t"))
        # A server without the last transactions is refused at once.
        follower.carried |= {"gtid": "0-8-999", "file": "log.000001", "offset": 400}
        began = time.monotonic()
        with pytest.raises(DataFlareError) as caught:
            await follower.read()
        assert (caught.value.code, "--fresh" in (caught.value.help or "")) == ("E0605", True)
        assert time.monotonic() - began < 10
        follower.carried |= {"file": "", "offset": 0}
        with pytest.raises(DataFlareError, match="now: transaction 0-8-999 was purged"):
            await follower.read()

    asyncio.run(check())


def test_a_table_is_read_further_at_another_server(pair: Pair) -> None:
    """What changed before and behind the last key meanwhile is in the log of that server."""
    first, second = pair.first, pair.second
    first.execute(TABLE, "insert into t select seq, 'x' from seq_1_to_600")
    pair.synchronise()
    rng = random.Random(3)

    async def check() -> None:
        source = Follower(first, "t").source()
        await source.schema()
        [split] = await source.splits()
        frames, position = await drain(source, split, None, 100, batches=2)
        for number in range(60):
            first.execute(
                f"update t set v = '{number}' where id = {rng.randrange(600)}",
                f"delete from t where id = {rng.randrange(600)}",
                f"replace into t values ({rng.randrange(900)}, 'r')",
            )
        pair.synchronise()
        pair.promote()
        second.execute("update t set id = id + 1000 where id between 150 and 260")
        again: Any = Follower(second, "t").source()
        await again.schema()
        more, _ = await drain(again, split, position)
        assert left(rows_of([*frames, *more])) == Counter(second.rows("select * from t"))

    asyncio.run(check())


def test_transactions_of_several_domains_come_once(
    plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers may have them in another order, so that no place of a log has just those that were read before it."""
    plain.execute(TABLE)
    ids: list[str] = []
    with plain.client() as db, db.cursor() as cursor:
        for number in range(40):
            cursor.execute(f"set session gtid_domain_id = {number % 3}")
            cursor.execute(f"insert into t values ({number}, 'a')")
            cursor.execute("select @@last_gtid")
            ids += cursor.fetchone()
    last = {0: 30, 1: 1, 2: 20}
    monkeypatch.setattr(dump, "_READ_BYTES", 100)
    monkeypatch.setattr(logs, "_BUSY_S", 0.0)

    async def check() -> None:
        follower = Follower(plain, "t", cdc={"snapshot": "never", "server_id": 4711})
        await follower.read()
        gtid = ",".join(ids[number] for number in last.values())
        position: Any = Position({**follower.carried, "file": "", "offset": 0, "gtid": gtid})
        found: list[int] = []
        wanted = [number for number in range(40) if number > last[number % 3]]
        runs = 0
        while len(found) < len(wanted):
            # A few transactions are read by a run that goes on where the last one ended.
            source = follower.source()
            await source.schema()
            [split] = await source.splits(position.value)
            reader = await source.open(split, position)
            may_cut = False
            while not may_cut:
                batch = await reader.read_batch(1)
                found += [row[1] for row in rows_of([batch.frame])]
                may_cut = batch.may_cut
            position, runs = reader.position(), runs + 1
            await reader.aclose()
        assert runs > 5
        assert found == wanted

    asyncio.run(check())


def test_a_log_that_was_purged_up_to_what_was_read_goes_on(plain: Plain) -> None:
    # The ids of a place are not known where its file has an event that is larger than the server sends.
    plain.execute("flush binary logs")
    plain.execute(TABLE, "insert into t values (1, 'a')")

    async def check() -> None:
        follower = Follower(plain, "t")
        await follower.read()
        plain.execute("flush binary logs", "flush binary logs")
        [(last, *_)] = plain.rows("show master status")
        end = time.monotonic() + _SYNC_S
        while plain.rows("show binary logs")[0][0] != last:
            assert time.monotonic() < end
            plain.execute(f"purge binary logs to '{last}'")
        plain.execute("insert into t values (2, 'b')")
        assert [row[1:] for row in await follower.read()] == [(2, "b")]

    asyncio.run(check())
