"""The latest version of each key of a table that changes: levels of pieces, each behind an index.

Adding appends a level, and levels of like size are merged, so a version is indexed again O(log n) times.
All of it stays in memory. Where the table is a changelog, a delete is a version too, of a row that is not there.

Always true: of two levels the later one has the later version of a key; the first level has no deletes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.event_time import TIME_COLUMN
from dataflare.operators.join_shape import RIGHT, JoinShape
from dataflare.state.index import KeyIndex
from dataflare.state.pieces import Piece
from dataflare.state.rows import RowsTable

_PLACE, _WEIGHT, _IS_THERE = (f"__dataflare_{name}" for name in ("place", "weight", "is_there"))


class Versions:
    """table: where the rows of the right side are, with their times. max_age_us: how old a version may be for
    any row that still comes."""

    def __init__(self, table: RowsTable, shape: JoinShape, max_age_us: int | None) -> None:
        self._table, self._shape, self._max_age_us = table, shape, max_age_us
        table.spills = False
        self._levels: list[tuple[Piece, pl.DataFrame, KeyIndex]] = []
        for piece in table.pieces():
            self._add_level(piece, table.frame_of(piece))

    def latest(self, keys: pl.DataFrame) -> pl.DataFrame | None:
        """The versions of some keys. keys: rows with the columns `key_names`, each once."""
        found = []
        for _, frame, index in reversed(self._levels):
            rows = index.rows([keys[name] for name in self._shape.key_names])
            known = rows.is_not_null()
            if known.any():
                found.append(frame[rows.filter(known)])
                keys = keys.filter(~known)
            if not keys.height:
                break
        return pl.concat(found) if found else None

    def all(self) -> Iterator[pl.DataFrame]:
        """The latest version of each key, the keys with new versions first."""
        newer: list[KeyIndex] = []
        for _, frame, index in reversed(self._levels):
            keys = frame.select(self._shape.key_columns(RIGHT))
            probe = [keys[name] for name in self._shape.key_names]
            hidden = pl.repeat(False, frame.height, eager=True)
            for each in newer:
                hidden = hidden | each.rows(probe).is_not_null()
            newer.append(index)
            yield _there(frame.filter(~hidden))

    def add(self, versions: pl.DataFrame, time: int) -> None:
        """Take new versions in order of time. time: no row that comes is earlier."""
        frame = self._last_of_key(versions)
        while self._levels and self._levels[-1][1].height <= 2 * frame.height:
            _, older, _ = self._levels.pop()
            frame = self._last_of_key(self._young(pl.concat([older, frame]), time))
        if not self._levels:
            frame = _there(frame)
        if frame.height:
            self._add_level(self._table.piece_of(frame), frame)
        self._table.set([piece for piece, _, _ in self._levels])

    def _young(self, frame: pl.DataFrame, time: int) -> pl.DataFrame:
        if self._max_age_us is None:
            return frame
        return frame.filter(pl.col(TIME_COLUMN) >= time - self._max_age_us)

    def _last_of_key(self, frame: pl.DataFrame) -> pl.DataFrame:
        keys = list(self._shape.keys_of(RIGHT))
        return frame.unique(subset=keys, keep="last", maintain_order=True)

    def _add_level(self, piece: Piece, frame: pl.DataFrame) -> None:
        keys = frame.select(self._shape.key_columns(RIGHT))
        self._levels.append((piece, frame, KeyIndex(keys, self._shape.key_names)))


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
