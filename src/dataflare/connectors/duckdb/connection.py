"""This process's connections to DuckDB files.

A process opens a file once, for reading or for writing, and all its connections share that; other
processes may read while all only read, and are shut out while one writes. So:

- readers open the file for reading only, unless this process is to write it too (`will_write`);
- writers open it from prepare to commit;
- who finds the file open in the wrong way waits for its users to leave, then for other processes,
  `busy_timeout` long.
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
from dataflare.connectors.sql.names import holds_data, locked, missing_file

_POLL_S = 0.02


class _Instance:
    """An open file. users: connections given out and not closed."""

    def __init__(self, root: Any, writable: bool) -> None:
        self.root, self.writable, self.users = root, writable, 0


_instances: dict[str, _Instance] = {}
_changed = threading.Condition()
_writers: dict[str, WeakSet[Any]] = {}


def will_write(path: Path, writer: object) -> None:
    """Let readers know, as long as `writer` lives, that this process writes the file."""
    with _changed:
        _writers.setdefault(_key(path), WeakSet()).add(writer)


class DuckConnection:
    """A connection of its own on the process's open file. One thread at a time."""

    def __init__(
        self, path: Path, *, write: bool, busy_timeout_s: float, outside: bool = True
    ) -> None:
        """outside: whether SQL may reach other files."""
        self._key: str | None = _key(path)
        self.db: Any = _take(path, write, busy_timeout_s)
        try:
            with duckdb_errors(path, "opening"):
                self.db.execute("set TimeZone = 'UTC'")
                # A name that is no table must not find a variable of ours.
                self.db.execute("set python_enable_replacements = false")
                if not outside:
                    self.db.execute("set enable_external_access = false")
        except BaseException:
            self.close()
            raise

    def rows(self, sql: str, params: list[Any] | None = None) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self.db.execute(sql, params or []).fetchall()
        return found

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
                    "this process is still reading it, and DuckDB opens a file in one way at a time",
                    "raise 'busy_timeout', or write to another file",
                )
            _changed.wait(_POLL_S)


def _remove_empty(path: Path) -> None:
    """Remove a file of 0 bytes, which DuckDB refuses to open, unless another process is making it now:
    that one has locked it."""
    try:
        with open(path, "r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_size == 0:
                os.unlink(path)
    except OSError:
        return


def _open(path: Path, write: bool, deadline: float) -> _Instance | None:
    """Open the file; None while another process has it and there is time left."""
    wanted = write or bool(_writers.get(_key(path)))
    if not holds_data(path):
        if not write:
            raise missing_file(path)
        _remove_empty(path)
    with duckdb_errors(path, "opening"):
        try:
            instance = _Instance(duckdb.connect(str(path), read_only=not wanted), wanted)
        except duckdb.ConnectionException:
            # The user's own connection in this process: join it.
            instance = _Instance(duckdb.connect(str(path)), True)
        except duckdb.IOException as error:
            if not in_other_process(error) or time.monotonic() >= deadline:
                raise
            return None
    _instances[_key(path)] = instance
    return instance
