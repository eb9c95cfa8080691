"""The latest version of each key of a table that changes: levels of pieces, each behind an index.

Adding appends a level, and levels of like size are merged, so a version is indexed again O(log n) times. Where
memory is short, levels go to disk (`state.row_runs`). Where the table is a changelog, a delete is a version too, of a row that is not there.

Always true: of two levels the later one has the later version of a key, and levels on disk come before those in memory;
the first level has no deletes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl
from msgspec import Struct

from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.event_time import NEVER, TIME_COLUMN
from dataflare.model.hashing import hash_columns
from dataflare.operators.join_shape import RIGHT, JoinShape
from dataflare.state.index import KeyIndex
from dataflare.state.pieces import Piece
from dataflare.state.row_runs import RowRuns
from dataflare.state.rows import RowsTable

_HASH = "__dataflare_key_hash"
_INDEX_BYTES = 16
"""Of a level in memory, about how much its index takes for a row."""
_PLACE, _WEIGHT, _IS_THERE = (f"__dataflare_{name}" for name in ("place", "weight", "is_there"))


class _Level(Struct):
    piece: Piece
    frame: pl.DataFrame
    index: KeyIndex


class Versions:
    """table: where the rows of the right side are, with their times. max_age_us: how old a version may be for
    any row that still comes."""

    def __init__(self, table: RowsTable, shape: JoinShape, max_age_us: int | None) -> None:
        self._table, self._shape, self._max_age_us = table, shape, max_age_us
        self._keys = list(shape.keys_of(RIGHT))
        self._time = NEVER
        table.spills, table.keeper = False, self
        self._runs = RowRuns(table, _HASH, self._joined, hashed=False)
        self._levels: list[_Level] = []
        for piece in self._runs.restore(table.pieces()):
            self._add_level(piece, table.frame_of(piece))
        self._set()

    def latest(self, keys: pl.DataFrame) -> pl.DataFrame | None:
        """The versions of some keys. keys: rows with the columns `key_names`, each once."""
        found = []
        for level in reversed(self._levels):
            rows = level.index.rows([keys[name] for name in self._shape.key_names])
            known = rows.is_not_null()
            if known.any():
                found.append(level.frame[rows.filter(known)])
                keys = keys.filter(~known)
            if not keys.height:
                break
        if keys.height and self._runs.runs:
            found += self._on_disk(keys)
        return pl.concat(found) if found else None

    def all(self) -> Iterator[pl.DataFrame]:
        """The latest version of each key, a part of the keys at a time."""
        if self._runs.runs:
            for _, frame in self._runs.by_range(self._hashed_levels()):
                yield _there(frame.drop(_HASH))
        elif self._levels:
            yield _there(self._last_of_key(pl.concat(level.frame for level in self._levels)))

    def add(self, versions: pl.DataFrame, time: int) -> None:
        """Take new versions in order of time. time: no row that comes is earlier."""
        self._time = max(self._time, time)
        self._runs.go_on()
        frame = self._last_of_key(versions)
        while self._levels and self._levels[-1].frame.height <= 2 * frame.height:
            older = self._levels.pop().frame
            frame = self._last_of_key(self._young(pl.concat([older, frame])))
        if not self._levels and not self._runs.runs:
            frame = _there(frame)
        if frame.height:
            self._add_level(self._table.piece_of(frame), frame)
        self._set()

    def stop(self) -> None:
        """Leave the table to others."""
        self._table.keeper = None
        self.close()
        self._levels, self._runs.runs = [], []

    # -- memory ------------------------------------------------------------------------------------

    @property
    def index_bytes(self) -> int:
        return self._runs.num_bytes + _INDEX_BYTES * sum(lv.frame.height for lv in self._levels)

    @property
    def level_bytes(self) -> int:
        if not self._runs.able:
            return 0
        return sum(int(level.frame.estimated_size()) for level in self._levels)

    @property
    def on_disk(self) -> bool:
        return bool(self._runs.runs)

    def spill(self) -> None:
        if self._levels and self._runs.able:
            self._runs.spill(self._hashed_levels())
            self._levels = []
            self._set()

    def close(self) -> None:
        self._runs.close()

    def _hashed_levels(self) -> list[pl.DataFrame]:
        """The levels in the order of the hashes of their keys."""
        lazy = (hash_columns(lv.frame.lazy(), self._keys, _HASH) for lv in self._levels)
        return [each.sort(_HASH, maintain_order=True).collect(engine="in-memory") for each in lazy]

    def _on_disk(self, keys: pl.DataFrame) -> list[pl.DataFrame]:
        """The versions of keys that no level has."""
        names = self._shape.key_names
        hashes = hash_columns(keys.lazy(), names, _HASH).select(pl.col(_HASH).unique().sort())
        found = self._runs.having(hashes.collect(engine="in-memory")[_HASH])
        if not found:
            return []
        latest = self._last_of_key(pl.concat(found)).drop(_HASH)
        named = latest.with_columns(self._shape.key_columns(RIGHT))
        wanted = named.join(keys, on=names, how="semi", maintain_order="left")
        return [wanted.select(latest.columns)] if wanted.height else []

    def _joined(self, frame: pl.DataFrame, is_oldest: bool) -> pl.DataFrame:
        """The last version of each key. Behind a delete that no version is older than there is none."""
        latest = self._last_of_key(self._young(frame))
        return _there(latest) if is_oldest else latest

    def _young(self, frame: pl.DataFrame) -> pl.DataFrame:
        if self._max_age_us is None or self._time == NEVER:
            return frame
        return frame.filter(pl.col(TIME_COLUMN) >= self._time - self._max_age_us)

    def _last_of_key(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.unique(subset=self._keys, keep="last", maintain_order=True)

    def _add_level(self, piece: Piece, frame: pl.DataFrame) -> None:
        keys = frame.select(self._shape.key_columns(RIGHT))
        self._levels.append(_Level(piece, frame, KeyIndex(keys, self._shape.key_names)))

    def _set(self) -> None:
        self._table.set([*self._runs.pieces(), *(level.piece for level in self._levels)])


def _there(frame: pl.DataFrame) -> pl.DataFrame:
    """The versions without deletes."""
    if KIND_COLUMN not in frame.columns:
        return frame
    return frame.filter(pl.col(KIND_COLUMN) != RowKind.DELETE)


def of_each_time(changes: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Inserts and deletes of which at most one has a key and a time, where one of them is a delete. A row that was
    inserted as often as deleted is there if the insert came last. Then a row that is there comes before a delete: a
    key may go from one row to another, and both changes may come in any order."""
    by, is_delete = [*keys, TIME_COLUMN], pl.col(KIND_COLUMN) == RowKind.DELETE
    if not changes.select(is_delete.any()).item():
        return changes
    tied = changes.select(((pl.len() > 1) & is_delete.any()).over(by)).to_series()
    if not tied.any():
        return changes
    values = [name for name in changes.columns if name != KIND_COLUMN]
    weight = pl.when(is_delete).then(-1).otherwise(1)
    rows = (
        changes.filter(tied)
        .lazy()
        .with_row_index(_PLACE)
        .group_by(values, maintain_order=True)
        .agg(
            pl.col(_PLACE).last(), weight.sum().alias(_WEIGHT), (~is_delete).last().alias(_IS_THERE)
        )
        .with_columns((pl.col(_WEIGHT) > 0) | ((pl.col(_WEIGHT) == 0) & pl.col(_IS_THERE)))
        .sort(_WEIGHT, _PLACE)
        .unique(by, keep="last", maintain_order=True)
        .with_columns(
            pl.when(_WEIGHT)
            .then(pl.lit(RowKind.INSERT, pl.UInt8))
            .otherwise(pl.lit(RowKind.DELETE, pl.UInt8))
            .alias(KIND_COLUMN)
        )
        .select(changes.columns)
        .collect(engine="in-memory")
    )
    return pl.concat([changes.filter(~tied), rows])
