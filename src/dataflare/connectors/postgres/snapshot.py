"""The snapshot that all parts of a full read see, kept open by a separate connection.

Always true: while the holder lives, every reader that takes the snapshot sees the same rows; when the
holder ends, the snapshot ends, and a reader that has not taken it yet reads the database as it is then.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

import psycopg

from dataflare.connectors.postgres.connection import Server
from dataflare.connectors.postgres.errors import error_facts, postgres_errors

_CANNOT_EXPORT = ("0A000", "25006", "55000")


class Snapshot(Protocol):
    """What readers see together."""

    def take(self, server: Server, name: str) -> str | None:
        """Its id on the server; None if the server cannot share one."""


class SharedSnapshot:
    """Blocking; any thread may call it. It is not sent between processes: a copy in another process
    opens its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: psycopg.Connection[tuple[Any, ...]] | None = None
        self._id: str | None = None
        self._was_taken = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (SharedSnapshot, ())

    def take(self, server: Server, name: str) -> str | None:
        """The snapshot's id, created by the first call; None if the server cannot share one."""
        with self._lock:
            if not self._was_taken:
                self._open(server, name)
                self._was_taken = True
            return self._id

    def _open(self, server: Server, name: str) -> None:
        self._holder = server.connect(name)
        with postgres_errors(server.label, "taking a snapshot"):
            server.begin(self._holder, "isolation level repeatable read read only")
            try:
                row = self._holder.execute("select pg_export_snapshot()").fetchone()
            except psycopg.Error as error:
                if error_facts(error).state not in _CANNOT_EXPORT:
                    raise
                self._drop()
                return
            self._id = str(row[0]) if row else None

    def close(self) -> None:
        with self._lock:
            self._drop()
            self._was_taken = False

    def _drop(self) -> None:
        holder, self._holder, self._id = self._holder, None, None
        if holder is not None:
            holder.close()
