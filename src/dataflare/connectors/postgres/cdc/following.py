"""What a reader of changes is told, and what it is told later: how far checkpoints are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg
from msgspec import Struct

from dataflare.connectors.postgres.catalog import Connection, Table
from dataflare.connectors.postgres.cdc.objects import Names
from dataflare.connectors.postgres.cdc.wire import Replication, lsn_text
from dataflare.connectors.postgres.connection import Server
from dataflare.connectors.postgres.errors import postgres_errors
from dataflare.connectors.postgres.reader import Reading
from dataflare.connectors.postgres.relation import Column, Relation
from dataflare.model.batch import truncation
from dataflare.sdk.source import SourceBatch
from dataflare.sdk.sql.change_facts import TIME
from dataflare.sdk.sql.table_streams import NewTables


class Followed(Struct, frozen=True):
    """One table. stream: its name; None where the source is of one table. key: the columns that identify a row in the
    log. has_old_rows: whether the log has rows as they were before an update (REPLICA IDENTITY FULL). gives_new: whether
    columns that come later are told. not_truncated: the step behind it that takes no TRUNCATE; None: all take it.
    needs_unchanged: by column, the step behind it that needs its value in each row. new: columns at the end of `reading` that the plan does not have."""

    stream: str | None
    reading: Reading
    table: Table
    key: tuple[str, ...]
    has_old_rows: bool
    gives_new: bool
    not_truncated: str | None = None
    needs_unchanged: Mapping[str, str] = {}
    new: tuple[Column, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.table.folder}.{self.table.name}"

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the table that are given: without facts of changes."""
        return tuple(column for column in self.reading.columns if not column.is_fact)

    @property
    def facts(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.reading.columns if column.is_fact)

    @property
    def truncation(self) -> SourceBatch:
        """All its rows went. No checkpoint may be cut behind it yet."""
        columns = {c.name: c.type.to_polars() for c in self.reading.columns}
        return SourceBatch(truncation(columns), stream=self.stream, may_cut=False)

    @property
    def logged_columns(self) -> tuple[str, ...]:
        """The columns that the log has."""
        return tuple(n for n, c in self.table.columns.items() if not c.generated)

    @property
    def numbers(self) -> Mapping[str, int]:
        """By column, its number in the table."""
        return {name: column.number for name, column in self.table.columns.items()}


class Following(Struct, frozen=True):
    """tables: those that are followed, by number. names: of the slot and the publication; None where nothing is to be
    made, as in a preview: the rows that are there are read, and no changes. copies: whether the rows that are there are
    read first. until: the position at which it ends, or None. has_event_time, not_ranged: as of a source. new_tables: as
    of a source; None where there is one table."""

    server: Server
    step: str
    tables: Mapping[int, Followed]
    names: Names | None
    copies: bool
    until: int | None
    folder: Path | None = None
    has_event_time: bool = False
    not_ranged: Mapping[str | None, str] = {}
    new_tables: Callable[[Connection, Callable[[Relation], None]], NewTables] | None = None

    @property
    def tells_time(self) -> bool:
        """Whether rows have the time of their commit, which may be their event time."""
        return self.has_event_time and any(TIME in table.facts for table in self.tables.values())

    @property
    def application(self) -> str:
        return f"dataflare {self.step}"

    @property
    def label(self) -> str:
        """What is followed, for messages."""
        labels = [each.reading.relation.label for each in self.tables.values()]
        return labels[0] if len(labels) == 1 else f"{len(labels)} tables"


class Confirmed:
    """How far checkpoints are that are committed. Sent between processes without its connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replication: Replication | None = None
        self.lsn = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return (Confirmed, ())

    def join(self, replication: Replication) -> None:
        """The connection of the reader that is told from now on."""
        with self._lock:
            self._replication = replication
            replication.flushed = max(replication.flushed, self.lsn)

    def leave(self, replication: Replication) -> None:
        """This reader is told nothing more."""
        with self._lock:
            if self._replication is replication:
                self._replication = None

    def confirm(self, server: Server, slot: str, lsn: int) -> None:
        """The server may forget the log before a position. Blocking."""
        with self._lock:
            self.lsn = max(self.lsn, lsn)
            if self._replication is not None:
                # The reader tells the server; a connection that is lost is an error there.
                self._replication.flushed = self.lsn
                return
        db = server.connect("dataflare (slot)")
        try:
            with postgres_errors(server.label, f"slot '{slot}'"):
                _advance(db, slot, self.lsn)
        finally:
            db.close()


def _advance(db: psycopg.Connection[Any], slot: str, lsn: int) -> None:
    """Nothing is lost where this cannot be done now: the next checkpoint does it, and readers drop what comes
    again."""
    try:
        db.execute(
            "select pg_replication_slot_advance(slot_name, %s::pg_lsn) from pg_replication_slots "
            "where slot_name = %s and not active and confirmed_flush_lsn < %s::pg_lsn",
            (lsn_text(lsn), slot, lsn_text(lsn)),
        )
    except (psycopg.errors.ObjectInUse, psycopg.errors.ObjectNotInPrerequisiteState):
        return
