"""The two kinds of server that a mirror test copies from and to: how to speak to one, and how each spells a statement."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pymysql
from servers import mariadb, postgres
from servers.mariadb import MariaDbServer
from servers.postgres import PostgresServer

COLUMNS = "id, part, name, body, amount, at"

_names = itertools.count()


class PostgresSide:
    """A database of a PostgreSQL server."""

    type = "postgres"
    columns = (
        "id int, part text, name text, body text, amount numeric(12,2), at timestamp(6), "
        "primary key (id, part)"
    )
    add = f"insert into {{t}} ({COLUMNS}) values (%s, %s, %s, %s, %s, %s) on conflict do nothing"
    put = (
        f"insert into {{t}} ({COLUMNS}) values (%s, %s, %s, %s, %s, %s) on conflict (id, part) do update "
        "set name = excluded.name, body = excluded.body, at = null"
    )
    back = "rollback to savepoint {}"
    refused = (
        psycopg.errors.LockNotAvailable,
        psycopg.errors.UniqueViolation,
        psycopg.errors.DeadlockDetected,
    )

    is_whole = True

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.server, self.name = server, name

    def dsn(self, port: int) -> str:
        return self.server.dsn(self.name).replace(f":{self.server.port}/", f":{port}/")

    def connect(self) -> Any:
        """A connection that waits for no lock, outside of a transaction."""
        db = psycopg.connect(self.server.dsn(self.name))
        db.execute("set lock_timeout = '5ms'")
        db.commit()
        return db

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.server.dsn(self.name), autocommit=True) as db:
            for statement in statements:
                db.execute(statement)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.server.dsn(self.name), autocommit=True) as db:
            return db.execute(sql).fetchall()

    def create(self, table: str) -> None:
        """A table whose log has the rows as they were before, or lacks large values that did not change."""
        what = "replica identity full" if self.is_whole else "alter body set storage external"
        self.execute(f"create table {table} ({self.columns})", f"alter table {table} {what}")

    def names(self, table: str) -> list[str]:
        """The columns of a table, in their order."""
        return [name for (name,) in self.rows(
            f"select attname from pg_attribute where attrelid = '{table}'::regclass "
            "and attnum > 0 and not attisdropped order by attnum"
        )]  # fmt: skip


class MariaDbSide:
    """A database of a MariaDB server."""

    type = "mysql"
    columns = (
        "id int, part varchar(5) collate utf8mb4_general_ci, name varchar(20), body longtext, "
        "amount decimal(12,2), at datetime(6), primary key (id, part)"
    )
    add = f"insert ignore into {{t}} ({COLUMNS}) values (%s, %s, %s, %s, %s, %s)"
    put = f"replace into {{t}} ({COLUMNS}) values (%s, %s, %s, %s, %s, %s)"
    back = "rollback to {}"
    refused = (pymysql.err.IntegrityError,)

    def __init__(self, server: MariaDbServer, name: str) -> None:
        self.server, self.name = server, name

    def dsn(self, port: int) -> str:
        return self.server.dsn(self.name, port=port, ssl_mode="disabled")

    def _client(self) -> Any:
        return self.server.client(self.name, ssl_disabled=True)

    def connect(self) -> Any:
        db = self.server.client(
            self.name, ssl_disabled=True,
            init_command="set innodb_lock_wait_timeout = 0, lock_wait_timeout = 0",
        )  # fmt: skip
        db.autocommit(False)
        return db

    def execute(self, *statements: str) -> None:
        with self._client() as db, db.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._client() as db, db.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def create(self, table: str) -> None:
        self.execute(
            f"create table {table} ({self.columns}) character set utf8mb4 collate utf8mb4_bin"
        )

    def names(self, table: str) -> list[str]:
        return [row[0] for row in self.rows(f"show columns from {table}")]


Side = PostgresSide | MariaDbSide

_IN_THE_WAY = {1062, 1205, 1213, 1412}
"""Another row has the key, another writer holds the row or the table, both hold what the other wants, or the table was
changed since the transaction began."""


def is_refused(side: Side, error: Exception) -> bool:
    """Whether another writer is in the way: the transaction is to be rolled back."""
    if isinstance(error, side.refused):
        return True
    return (
        isinstance(error, pymysql.err.MySQLError)
        and error.args[:1]
        and error.args[0] in _IN_THE_WAY
    )


@contextlib.contextmanager
def both_servers() -> Iterator[dict[str, Any]]:
    """A server of each type, by the connector's name."""
    with (
        # With so little memory for it, long transactions come in pieces.
        postgres.server(
            "max_replication_slots = 20", "max_wal_senders = 20", "logical_decoding_work_mem = 64kB"
        ) as first,
        mariadb.server() as second,
    ):
        yield {"postgres": first, "mysql": second}


def kill_and_start(server: Any) -> None:
    """As when its machine dies and comes back."""
    if isinstance(server, PostgresServer | MariaDbServer):
        server.restart()
    else:
        server.brokers[0].kill()
        server.start()


@contextlib.contextmanager
def side_of(type_: str, servers: dict[str, Any]) -> Iterator[Side]:
    """A new database of a server of this type, gone afterwards."""
    name, server = f"mirror_{next(_names)}", servers[type_]
    if type_ == "postgres":
        whole: Side = PostgresSide(server, "postgres")
        whole.execute(f"create database {name}")
        yield PostgresSide(server, name)
        _drop_slots(whole, name)
        whole.execute(f"drop database {name} with (force)")
    else:
        whole = MariaDbSide(server, "test")
        whole.execute(f"create database {name} character set utf8mb4")
        yield MariaDbSide(server, name)
        whole.execute(f"drop database {name}")


def _drop_slots(whole: Side, database: str) -> None:
    where = f"from pg_replication_slots where database = '{database}'"
    whole.execute(f"select pg_terminate_backend(active_pid) {where} and active")
    slots: Sequence[tuple[str]] = whole.rows(f"select slot_name {where}")  # type: ignore[assignment]
    for (slot,) in slots:
        whole.execute(f"select pg_drop_replication_slot('{slot}')")
