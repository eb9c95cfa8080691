"""This process's connections to DuckDB files.

A process opens a file once, for reading or for writing, and all its connections share that
instance. Several processes may read at the same time, but a writing process excludes all others.
So:

- readers open the file for reading only, unless this process will write it too (`will_write`);
- writers open it from prepare to commit;
- if the file is open in the wrong mode, a caller waits until its users close it, then for other processes, up to `busy_timeout`.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path
from typing import Any
from weakref import WeakSet

import duckdb

from dataflare.connectors.duckdb.errors import duckdb_errors, in_other_process
from dataflare.sdk.sql.names import holds_data, locked, missing_file

_POLL_S = 0.02


class _Instance:
    """An open file. users: the number of open connections."""

    def __init__(self, root: Any, writable: bool) -> None:
        self.root, self.writable, self.users = root, writable, 0


_instances: dict[str, _Instance] = {}
_changed = threading.Condition()
_writers: dict[str, WeakSet[Any]] = {}


def will_write(path: Path, writer: object) -> None:
    """Tell readers that this process writes the file, as long as `writer` lives."""
    with _changed:
        _writers.setdefault(_key(path), WeakSet()).add(writer)


class DuckConnection:
    """A separate connection to the process's open file. Used by one thread at a time."""

    def __init__(
        self, path: Path, *, write: bool, busy_timeout_s: float, outside: bool = True
    ) -> None:
        """outside: whether SQL may reach other files."""
        self._key: str | None = _key(path)
        self.db: Any = _take(path, write, busy_timeout_s)
        try:
            with duckdb_errors(path, "opening"):
                self.db.execute("set TimeZone = 'UTC'")
                # A name that is not a table must not resolve to a Python variable of DataFlare.
                self.db.execute("set python_enable_replacements = false")
                if not outside:
                    self.db.execute("set enable_external_access = false")
        except BaseException:
            self.close()
            raise

    def rows(self, sql: str, params: list[Any] | None = None) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self.db.execute(sql, params or []).fetchall()
        return rows

    def close(self) -> None:
        key, self._key = self._key, None
        if key is None:
            return
        self.db.close()
        with _changed:
            instance = _instances[key]
            instance.users -= 1
            if instance.users == 0:
                del _instances[key]
                instance.root.close()
            _changed.notify_all()


def _key(path: Path) -> str:
    return str(path.resolve())


def _take(path: Path, write: bool, busy_timeout_s: float) -> Any:
    deadline = time.monotonic() + busy_timeout_s
    with _changed:
        while True:
            instance = _instances.get(_key(path))
            if instance is None:
                instance = _open(path, write, deadline)
            if instance is not None and (instance.writable or not write):
                instance.users += 1
                return instance.root.cursor()
            if instance is not None and time.monotonic() >= deadline:
                raise locked(
                    path,
                    "this process is still reading it, and DuckDB opens a file either for "
                    "reading or for writing",
                    "raise 'busy_timeout', or write to another file",
                )
            _changed.wait(_POLL_S)


def _remove_empty(path: Path) -> None:
    """Remove a file of 0 bytes, which DuckDB refuses to open, unless another process is creating it
    now and has locked it."""
    try:
        with open(path, "r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_size == 0:
                os.unlink(path)
    except OSError:
        return


def _open(path: Path, write: bool, deadline: float) -> _Instance | None:
    """Open the file; None if another process has locked it and the deadline is not over."""
    writable = write or bool(_writers.get(_key(path)))
    if not holds_data(path):
        if not write:
            raise missing_file(path)
        _remove_empty(path)
    with duckdb_errors(path, "opening"):
        try:
            instance = _Instance(duckdb.connect(str(path), read_only=not writable), writable)
        except duckdb.ConnectionException:
            # The user has a connection in this process: share its instance.
            instance = _Instance(duckdb.connect(str(path)), True)
        except duckdb.IOException as error:
            if not in_other_process(error) or time.monotonic() >= deadline:
                raise
            return None
    _instances[_key(path)] = instance
    return instance
