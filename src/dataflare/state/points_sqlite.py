"""A point store in SQLite. Its file has no name, so nothing is left of it when the process is killed."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dataflare.state.points import PointStore
from dataflare.state.scratch import make_folder, not_kept

_PAGE = 4096


class SqlitePoints(PointStore):
    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._folder, self._bytes_max = folder, bytes_max
        make_folder(folder)
        try:
            handle, name = tempfile.mkstemp(prefix="dataflare-", suffix=".sqlite", dir=folder)
        except OSError as error:
            raise not_kept(folder, error) from error
        path = Path(name)
        with open(handle, "rb"):
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            # Nothing reads the file after a crash, so SQLite writes no journal and waits for no disk.
            self._db.executescript(
                f"pragma page_size = {_PAGE}; pragma journal_mode = off; pragma synchronous = off;"
                f"pragma cache_size = -{max(bytes_max // 1024, 1024)}; pragma temp_store = memory;"
                "create table points (key blob primary key, value blob not null) without rowid;"
                "create temp table asked (place integer primary key, key blob not null);"
            )
        except sqlite3.Error as error:
            raise not_kept(folder, error) from error
        finally:
            path.unlink()

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = [None] * len(keys)
        try:
            self._db.execute("delete from asked")
            self._db.executemany("insert into asked values (?, ?)", enumerate(keys))
            rows = self._db.execute("select place, value from asked join points using (key)")
            for place, value in rows:
                found[place] = value
        except sqlite3.Error as error:
            raise not_kept(self._folder, error) from error
        return found

    def put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        try:
            self._db.execute("begin")
            rows = sorted(zip(keys, values, strict=True))
            self._db.executemany("insert or replace into points values (?, ?)", rows)
            self._db.execute("commit")
        except sqlite3.Error as error:
            raise not_kept(self._folder, error) from error

    @property
    def num_bytes(self) -> int:
        return self._bytes_max

    def close(self) -> None:
        self._db.close()
