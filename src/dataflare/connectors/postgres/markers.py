"""The marker rows of a database: they record which epoch of which run it contains.

Always true: a marker is in the schema of the table that its step writes, so that rights on that schema
are enough.
"""

from __future__ import annotations

from typing import Any

import psycopg

from dataflare.connectors.postgres import catalog, tables
from dataflare.connectors.postgres.catalog import Connection
from dataflare.connectors.postgres.connection import Server
from dataflare.connectors.postgres.errors import error_facts, postgres_errors
from dataflare.errors import SystemError_
from dataflare.sdk.sql import marker
from dataflare.sdk.sql.marker import (
    MARKER_COLUMNS,
    MARKER_DDL,
    MARKER_TABLE,
    MarkerRow,
    MarkerRows,
)
from dataflare.sdk.sql.names import listed, quoted
from dataflare.sdk.sql.shared import now_text
from dataflare.sdk.sql.store import Target

MAKING = "select pg_advisory_xact_lock(7236837460982174)"
"""Only one process at a time creates DataFlare's internal tables."""


class Markers:
    """The part of a store for markers. db: in a transaction. backend: the server's process id of
    this session."""

    def __init__(self, server: Server, db: Connection) -> None:
        self._server, self._db = server, db
        self.backend = db.info.backend_pid  # a broken connection does not have it any more

    def _errors(self, subject: str) -> Any:
        return postgres_errors(self._server.label, subject)

    def read_marker(self, target: Target, *, lock: bool = False) -> MarkerRows:
        """The marker rows of the target; none if there is no marker table. lock: no other
        transaction can change these rows before this one ends."""
        with self._errors(f"table {MARKER_TABLE}"):
            folder = self._folder(target)
            table = catalog.find_exact(self._db, folder, MARKER_TABLE) if folder else None
            if table is None or folder is None:
                return MarkerRows()
            place = f"{quoted(folder)}.{MARKER_TABLE}"
            query, parameters = marker.selection(target, set(table.columns), place, "%s")
            query += " for update" if lock else ""
            return marker.marker_rows(target, self._db.execute(query, parameters).fetchall())

    def supersede(self, target: Target) -> None:
        """Delete the marker rows of other lineages of the target's workflow, step and table."""
        with self._errors(f"table {MARKER_TABLE}"):
            folder = quoted(self._folder(target) or "public")
            self._db.execute(
                f"delete from {folder}.{MARKER_TABLE} "
                "where step = %s and workflow = %s and place = %s and lineage <> %s",
                (target.step, target.workflow, target.place, target.lineage),
            )

    def is_missing(self, target: Target) -> bool:
        """Whether the target's table does not exist."""
        with self._errors(f"table '{target.table}'"):
            return catalog.find_table(self._db, target.table) is None

    def is_empty(self, target: Target) -> bool:
        """Whether the table is missing or has no rows."""
        with self._errors(f"table '{target.table}'"):
            table = catalog.find_table(self._db, target.table)
            if table is None:
                return True
            return self._db.execute(f"select 1 from {table.sql} limit 1").fetchone() is None

    def write_marker(self, target: Target, row: MarkerRow) -> None:
        with self._errors(f"table {MARKER_TABLE}"):
            folder = quoted(self._folder(target) or "public")
            names = listed(MARKER_COLUMNS)
            moved = ", ".join(f"{n} = excluded.{n}" for n in MARKER_COLUMNS[2:])
            self._db.execute(
                f"insert into {folder}.{MARKER_TABLE} ({names}) values "
                f"({', '.join(['%s'] * len(MARKER_COLUMNS))}) "
                f"on conflict (lineage, step) do update set {moved}",
                marker.values(target, row, now_text()),
            )

    def make_marker_table(self, target: Target) -> None:
        with self._errors(f"table {MARKER_TABLE}"):
            folder = self._folder(target)
            if folder is None:
                # Raises an error if the schema may not be created.
                tables.require(self._db, self._server, target)
                folder = catalog.new_schema(self._db, target.table)
                assert folder is not None
                self._db.execute(MAKING)
                self._db.execute(f"create schema if not exists {quoted(folder)}")
            place = f"{quoted(folder)}.{MARKER_TABLE}"
            table = catalog.find_exact(self._db, folder, MARKER_TABLE)
            for added in marker.widening(set(table.columns), place) if table else ():
                self._db.execute(added.replace("add column", "add column if not exists"))
            if table is None:
                self._db.execute(MAKING)
                if catalog.find_exact(self._db, folder, MARKER_TABLE) is not None:
                    return
                statement = MARKER_DDL.replace(MARKER_TABLE, place, 1)
                try:
                    self._db.execute(statement)
                except psycopg.errors.InsufficientPrivilege as error:
                    raise SystemError_(
                        f"the user may not make table {MARKER_TABLE} in {self._server.label}, which "
                        f"keeps what was committed: {error_facts(error).text}",
                        code="E0602",
                        help=f"grant create on schema {quoted(folder)}, or make it once: {statement}",
                    ) from error

    def _folder(self, target: Target) -> str | None:
        """The schema of the table; the marker is in it too."""
        table = catalog.find_table(self._db, target.table)
        return table.folder if table else catalog.new_place(self._db, target.table)[0]

    def end_older_sessions(self, prefix: str, attempt: int) -> None:
        """End the sessions that older attempts of this run have left open on the server, because
        they may hold locks: their machine may have stopped without closing them."""
        with self._errors("ending older sessions"):
            self._db.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and usename = current_user "
                "and pid <> pg_backend_pid() and starts_with(application_name, %s) "
                "and substr(application_name, length(%s) + 1) ~ '^[0-9]+$' "
                "and substr(application_name, length(%s) + 1)::bigint < %s",
                (prefix, prefix, prefix, attempt),
            )

    def end_session(self, backend: int, name: str) -> None:
        """End a session of DataFlare whose connection broke: the server may not have noticed, and
        the session may hold locks. name: of the application, because the process id may belong to
        another session now."""
        with self._errors("ending a broken session"):
            self._db.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where pid = %s "
                "and usename = current_user and application_name = %s",
                (backend, name[:63]),
            )
