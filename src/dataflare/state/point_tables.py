"""Tables that are asked by key, on a point store. Their pieces are a log that only serves checkpoints."""

from __future__ import annotations

import polars as pl

from dataflare.state.key_hashes import key_bytes
from dataflare.state.log import Log
from dataflare.state.points import PointStore, rows_as_bytes, rows_of_bytes

_SLICE_ROWS = 100_000


class PointKeys:
    """A set of keys, as `KeySet`. log: keeps all rows."""

    def __init__(self, log: Log, store: PointStore) -> None:
        self.log, self._store = log, store
        for piece in log.pieces():
            self._put(log.frame_of(piece))

    def contains(self, frame: pl.DataFrame) -> pl.Series:
        """For each row whether its key is held."""
        found = self._store.get(key_bytes(frame, self.log.keys).to_list())
        return pl.Series([value is not None for value in found], dtype=pl.Boolean)

    def add(self, keys: pl.DataFrame) -> None:
        self._put(keys)
        self.log.append(keys)

    def _put(self, frame: pl.DataFrame) -> None:
        for part in frame.iter_slices(_SLICE_ROWS):
            keys = key_bytes(part, self.log.keys).to_list()
            self._store.put(keys, [b""] * len(keys))


class PointNewest:
    """The newest row of each key, as `Newest`. log: keeps the newest row of a key."""

    def __init__(self, log: Log, store: PointStore) -> None:
        self.log, self._store = log, store
        self._schema: pl.Schema | None = None
        for piece in log.pieces():
            self._put(log.frame_of(piece))

    def put(self, rows: pl.DataFrame) -> None:
        """rows: of different keys. They replace those of the same keys."""
        self._put(rows)
        self.log.append(rows)

    def find(self, keys: pl.DataFrame) -> pl.DataFrame | None:
        """The rows of some keys; None where there are none. keys: each once."""
        if self._schema is None:
            return None
        found = self._store.get(key_bytes(keys, self.log.keys).to_list())
        values = [value for value in found if value is not None]
        return rows_of_bytes(values, self._schema) if values else None

    def _put(self, frame: pl.DataFrame) -> None:
        self._schema = frame.schema
        for part in frame.iter_slices(_SLICE_ROWS):
            self._store.put(key_bytes(part, self.log.keys).to_list(), rows_as_bytes(part))
