"""A database of a PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from server_databases import LINEAGE, ServerDatabase, Step, batch, chunks, drain, run

if TYPE_CHECKING:
    from servers.postgres import PostgresServer

__all__ = ["LINEAGE", "Database", "Step", "batch", "chunks", "drain", "new_database", "run"]


class Database(ServerDatabase):
    kind = "postgres"

    def __init__(self, server: PostgresServer, name: str, folder: Path) -> None:
        self._server, self.name, self.folder = server, name, folder

    @property
    def server(self) -> PostgresServer:
        return self._server

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as db:
            for statement in statements:
                db.execute(statement)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as db:
            return db.execute(sql).fetchall()

    def tables(self) -> list[str]:
        return [
            name
            for (name,) in self.rows("select tablename from pg_tables where schemaname = 'public'")
        ]

    def break_connection(self, store: Any) -> None:
        store._sender.stop()
        store._db.pgconn.finish()


def new_database(server: PostgresServer, name: str, folder: Path) -> Iterator[Database]:
    """For the time of a test."""
    whole = Database(server, "postgres", folder)
    whole.execute(f"create database {name}")
    yield Database(server, name, folder)
    whole.execute(f"drop database {name} with (force)")
