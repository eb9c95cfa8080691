"""The marker rows of a database: they record which epoch of which run it contains.

Always true: a marker is in the schema of the table that its step writes, so that rights on that schema
are enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import psycopg

from dataflare.connectors.postgres import catalog, tables
from dataflare.connectors.postgres.catalog import Connection, Table
from dataflare.connectors.postgres.connection import Server
from dataflare.connectors.postgres.errors import error_facts, postgres_errors
from dataflare.errors import DataFlareError, SystemError_
from dataflare.sdk.sql import marker
from dataflare.sdk.sql.marker import MARKER_COLUMNS, MARKER_TABLE
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.server_errors import is_lost
from dataflare.sdk.sql.sql_markers import SqlMarkers
from dataflare.sdk.sql.store import TableStore, Target

MAKING = "select pg_advisory_xact_lock(7236837460982174)"
"""Only one process at a time creates DataFlare's internal tables."""


class PostgresMarkers(SqlMarkers):
    """The part of a store for markers and sessions. prefix, suffix: of the application's name, as the
    server lists it: the run, and its attempt."""

    remote: ClassVar[bool] = True
    mark: ClassVar[str] = "%s"

    def __init__(self, server: Server, lineage: str, attempt: int, *, aside: bool = False) -> None:
        self._server, self._attempt = server, attempt
        self._prefix = f"dataflare {lineage.replace('-', '')[:8]} "
        self._name = f"{self._prefix}{'aside' if aside else attempt}"
        self.label = server.label
        self._connection: Connection | None = None
        self.backend = 0
        """The server's process id of this session."""
        self._folders: dict[str, str] = {}
        """By table, its schema, once it was asked for."""
        self._columns: dict[str, set[str]] = {}
        """By marker table, its columns: the same, and only where it is there."""

    @property
    def _db(self) -> Connection:
        if self._connection is None:
            self._connection = self._server.connect(self._name)
            # A broken connection does not have it any more.
            self.backend = self._connection.info.backend_pid
        return self._connection

    def errors(self, subject: str) -> AbstractContextManager[None]:
        return postgres_errors(self._server.label, subject)

    def run(self, sql: str, params: Sequence[Any] = ()) -> None:
        self._db.execute(sql, params or None)

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._db.execute(sql, params or None).fetchall()

    def find(self, name: str) -> Table | None:
        return catalog.find_table(self._db, name)

    def place_of(self, table: Table) -> str:
        return table.sql

    def marker_place(self, target: Target) -> str | None:
        """In the schema of the table."""
        folder = self._folder(target)
        return None if folder is None else f"{quoted(folder)}.{MARKER_TABLE}"

    def marker_columns(self, place: str) -> set[str]:
        if place in self._columns:
            return self._columns[place]
        rows = self.rows(
            "select a.attname from pg_attribute a join pg_class c on c.oid = a.attrelid "
            "join pg_namespace n on n.oid = c.relnamespace where a.attnum > 0 and not a.attisdropped "
            """and '"' || replace(n.nspname, '"', '""') || '".' || c.relname = %s""",
            [place],
        )
        columns = {str(name) for (name,) in rows}
        if columns >= set(MARKER_COLUMNS):
            self._columns[place] = columns
        return columns

    def make_marker_table(self, target: Target) -> str:
        """Its full name: `take_over` has made it."""
        return self.marker_place(target) or MARKER_TABLE

    def take_over(self, target: Target) -> None:
        self._end_older_sessions()
        with self.errors(f"table {MARKER_TABLE}"):
            folder = self._folder(target)
            if folder is None:
                # Raises an error if the schema may not be created.
                tables.require(self._db, self._server, target)
                folder = catalog.new_schema(self._db, target.table)
                assert folder is not None
                self.run(MAKING)
                self.run(f"create schema if not exists {quoted(folder)}")
            place = f"{quoted(folder)}.{MARKER_TABLE}"
            columns = self.marker_columns(place)
            if columns:
                for added in marker.widening(columns, place):
                    self.run(added.replace("add column", "add column if not exists"))
                return
            self.run(MAKING)
            if self.marker_columns(place):
                return
            statement = marker.creation(place)
            try:
                self.run(statement)
            except psycopg.errors.InsufficientPrivilege as error:
                raise SystemError_(
                    f"the user may not make table {MARKER_TABLE} in {self.label}, which "
                    f"keeps what was committed: {error_facts(error).text}",
                    code="E0602",
                    help=f"grant create on schema {quoted(folder)}, or make it once: {statement}",
                ) from error

    def _folder(self, target: Target) -> str | None:
        """The schema of the table; the marker is in it too."""
        folder = self._folders.get(target.table)
        if folder is None:
            table = self.find(target.table)
            folder = table.folder if table else catalog.new_place(self._db, target.table)[0]
            if table:
                self._folders[target.table] = table.folder
        return folder

    def is_lost(self, error: DataFlareError) -> bool:
        return is_lost(error)

    def replace(self, broken: TableStore) -> None:
        """The process id may belong to another session now, so the application's name is compared too."""
        assert isinstance(broken, PostgresMarkers)
        with self.errors("ending a broken session"):
            self.run(
                "select pg_terminate_backend(pid) from pg_stat_activity where pid = %s "
                "and usename = current_user and application_name = %s",
                (broken.backend, self._name[:63]),
            )

    def _end_older_sessions(self) -> None:
        """End the sessions that older attempts of this run have left open on the server, because
        they may hold locks: their machine may have stopped without closing them."""
        with self.errors("ending older sessions"):
            self.run(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and usename = current_user "
                "and pid <> pg_backend_pid() and starts_with(application_name, %s) "
                "and substr(application_name, length(%s) + 1) ~ '^[0-9]+$' "
                "and substr(application_name, length(%s) + 1)::bigint < %s",
                (self._prefix, self._prefix, self._prefix, self._attempt),
            )
