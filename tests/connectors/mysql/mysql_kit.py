"""A database of a MariaDB server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server_databases import LINEAGE, ServerDatabase, Step, batch, chunks, drain, run

if TYPE_CHECKING:
    from servers.mariadb import MariaDbServer

__all__ = ["LINEAGE", "Database", "Step", "batch", "chunks", "drain", "new_database", "run"]


class Database(ServerDatabase):
    kind = "mysql"

    def __init__(self, server: MariaDbServer, name: str, folder: Path) -> None:
        self._server, self.name, self.folder = server, name, folder

    @property
    def server(self) -> MariaDbServer:
        return self._server

    def execute(self, *statements: str) -> None:
        with self.server.client(self.name) as db, db.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self.server.client(self.name) as db, db.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def tables(self) -> list[str]:
        return [name for (name,) in self.rows("show tables")]

    def break_connection(self, store: Any) -> None:
        store._db.abort()


def new_database(server: MariaDbServer, name: str, folder: Path) -> Iterator[Database]:
    """For the time of a test. What it left open is ended: a transaction would hold up the end for ever."""
    whole = Database(server, "test", folder)
    whole.execute(f"create database {name}")
    yield Database(server, name, folder)
    left = whole.rows(f"select id from information_schema.processlist where db = '{name}'")
    whole.execute(*(f"kill {number}" for (number,) in left), f"drop database {name}")
