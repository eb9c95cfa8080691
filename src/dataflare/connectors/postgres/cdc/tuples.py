"""Find the values of the rows in pgoutput messages, one column of all messages at a time. Pure.

Always true: a value is bytes that point into its message, so no text is copied; NULL and a value that the log leaves
out (`u`, see `Rows.left_out`) are told apart. Rows stand in the order of their messages, and the two halves of an update
are adjacent.
Format: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from msgspec import Struct

from dataflare.model.batch import RowKind

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

_BODY = 25
"""Where the plugin's own bytes begin in a message."""
_FORM, _CELLS = _BODY + 5, _BODY + 8
"""Where the letter of the first tuple is, and where its values begin."""
_SLACK = 16
"""Zero bytes behind the last message: bytes are read also for a value that is NULL."""
_FEW = 64
"""So few values are cut out one by one in less time than all at once."""
_INLINE = 12
"""Bytes of a value that stands in its view; a longer one is pointed to."""
_OFFSET_MAX = 2**31 - 1


class Cells(Struct):
    """A column, by row: where its values begin, how long they are, which are not NULL (None: all), which the log
    leaves out (None: none)."""

    start: Numbers
    size: Numbers
    present: Flags | None = None
    left_out: Flags | None = None

    def take(self, rows: Numbers | Flags) -> Cells:
        present = None if self.present is None else self.present[rows]
        left_out = None if self.left_out is None else self.left_out[rows]
        return Cells(
            self.start[rows],
            self.size[rows],
            None if present is None or present.all() else present,
            left_out if left_out is not None and left_out.any() else None,
        )


class Rows(Struct):
    """data: the messages. kinds: row kinds. messages: for each row, the number of its message."""

    data: bytes
    kinds: npt.NDArray[np.uint8]
    messages: Numbers
    cells: Sequence[Cells]

    def values(self, column: int) -> pl.Series:
        """Bytes or null."""
        return _series(self.data, self.cells[column])

    def filter(self, kept: Flags) -> Rows:
        cells = [each.take(kept) for each in self.cells]
        return Rows(self.data, self.kinds[kept], self.messages[kept], cells)

    @property
    def left_out(self) -> list[int]:
        """The columns of which the log lacks a value, because a large one did not change."""
        return [n for n, each in enumerate(self.cells) if each.left_out is not None]


def rows_of(messages: Sequence[bytes], columns: int, key: Sequence[int]) -> Rows:
    """The rows of inserts, updates and deletes of one table. columns: how many it has. key: the numbers of those
    that identify a row: an update that changes them is a delete and an insert."""
    sizes = np.fromiter(map(len, messages), np.int64, len(messages))
    starts = np.cumsum(sizes) - sizes
    data = b"".join([*messages, bytes(_SLACK)])
    buffer = np.frombuffer(data, np.uint8)
    tags, forms = buffer[starts + _BODY], buffer[starts + _FORM]
    number = np.arange(starts.size)
    has_old, has_new = forms != ord("N"), tags != ord("D")
    new_kinds = np.where(tags == ord("I"), RowKind.INSERT.value, RowKind.UPDATE_AFTER.value).astype(
        np.uint8
    )
    if not has_old.any():
        cells, _ = _walk(buffer, starts + _CELLS, columns)
        return Rows(data, new_kinds, number, cells)
    old_cells, old_ends = _walk(buffer, starts[has_old] + _CELLS, columns)
    begins = starts + _CELLS
    # The new tuple of an update stands behind the old one, a letter and a count.
    begins[has_old] = old_ends + 3
    new_cells, _ = _walk(buffer, begins[has_new], columns)
    old, new = number[has_old], number[has_new]
    is_whole = forms[old] == ord("O")
    new_cells = [
        _filled(after, before, new, old, is_whole)
        for after, before in zip(new_cells, old_cells, strict=True)
    ]
    old_kinds = np.where(
        tags[old] == ord("D"), RowKind.DELETE.value, RowKind.UPDATE_BEFORE.value
    ).astype(np.uint8)
    order = np.argsort(np.concatenate([old * 2, new * 2 + 1]))
    rows = Rows(
        data,
        np.concatenate([old_kinds, new_kinds[new]])[order],
        np.concatenate([old, new])[order],
        [_joined(*each).take(order) for each in zip(old_cells, new_cells, strict=True)],
    )
    is_key = np.concatenate([~is_whole, np.zeros(new.size, np.bool_)])[order]
    _part(rows, is_key, key)
    return rows


def _walk(buffer: Bytes, at: Numbers, columns: int) -> tuple[list[Cells], Numbers]:
    """The values of tuples that begin at these places, and where the tuples end."""
    found = []
    for _ in range(columns):
        sort = buffer[at]
        size = buffer[at + 1].astype(np.int64) << 24
        for byte, shift in ((2, 16), (3, 8), (4, 0)):
            size |= buffer[at + byte].astype(np.int64) << shift
        present = sort == ord("t")
        if present.all():
            found.append(Cells(at + 5, size))
            at = at + 5 + size
            continue
        size = np.where(present, size, 0)
        left_out = sort == ord("u")
        found.append(Cells(at + 5, size, present, left_out if left_out.any() else None))
        at = at + np.where(present, size + 5, 1)
    return found, at


def _filled(after: Cells, before: Cells, new: Numbers, old: Numbers, is_whole: Flags) -> Cells:
    """Values that a new tuple leaves out, from the old one where that has all values. new, old: the numbers of their
    messages."""
    if after.left_out is None:
        return after
    assert after.present is not None
    place = np.minimum(np.searchsorted(old, new), old.size - 1)
    known = after.left_out & (old[place] == new) & is_whole[place]
    from_old = place[known]
    start, size, present = after.start.copy(), after.size.copy(), after.present.copy()
    start[known], size[known] = before.start[from_old], before.size[from_old]
    present[known] = True if before.present is None else before.present[from_old]
    left_out = after.left_out & ~known
    return Cells(start, size, present, left_out if left_out.any() else None)


def _joined(old: Cells, new: Cells) -> Cells:
    """left_out counts for new tuples alone: an old one has no such value."""
    present, left_out = None, None
    if old.present is not None or new.present is not None:
        parts = [
            np.ones(each.start.size, np.bool_) if each.present is None else each.present
            for each in (old, new)
        ]
        present = np.concatenate(parts)
    if old.left_out is not None or new.left_out is not None:
        parts = [
            np.zeros(each.start.size, np.bool_) if each.left_out is None else each.left_out
            for each in (old, new)
        ]
        left_out = np.concatenate(parts)
    return Cells(
        np.concatenate([old.start, new.start]),
        np.concatenate([old.size, new.size]),
        present,
        left_out,
    )


def _part(rows: Rows, is_key: Flags, key: Sequence[int]) -> None:
    """Make updates that change the key deletes and inserts. The halves of an update are adjacent. is_key: rows that
    have only their key: they are there because the key has changed."""
    goes = rows.kinds == RowKind.UPDATE_BEFORE.value
    if not goes.any():
        return
    changed = is_key.copy()
    for column in key:
        values = rows.values(column)
        changed |= values.ne_missing(values.shift(-1)).to_numpy()
    goes &= changed
    comes = np.concatenate([[False], goes[:-1]]) & (rows.kinds == RowKind.UPDATE_AFTER.value)
    rows.kinds[goes] = RowKind.DELETE.value
    rows.kinds[comes] = RowKind.INSERT.value


def _series(data: bytes, cells: Cells) -> pl.Series:
    rows = cells.start.size
    if rows <= _FEW or len(data) > _OFFSET_MAX:
        edges = zip(cells.start.tolist(), (cells.start + cells.size).tolist(), strict=True)
        values: list[bytes | None] = [data[start:end] for start, end in edges]
        if cells.present is not None:
            for at in np.flatnonzero(~cells.present).tolist():
                values[at] = None
        return pl.Series(values, dtype=pl.Binary)
    # Arrow's views: the length, and then the value, or its first four bytes, the number of its buffer and its place.
    views = np.zeros((rows, 4), np.int32)
    views[:, 0] = cells.size
    letters = views.view(np.uint8).reshape(rows, 16)
    buffer = np.frombuffer(data, np.uint8)
    is_long = cells.size > _INLINE
    long, short = np.flatnonzero(is_long), np.flatnonzero(~is_long)
    if long.size:
        letters[long, 4:8] = buffer[cells.start[long, None] + np.arange(4)]
        views[long, 3] = cells.start[long]
    if short.size:
        places = np.arange(_INLINE)
        inline = buffer[cells.start[short, None] + places]
        inline[places >= cells.size[short, None]] = 0
        letters[short, 4:16] = inline
    nulls = None
    if cells.present is not None:
        nulls = pa.py_buffer(np.packbits(cells.present, bitorder="little").tobytes())
    array = pa.Array.from_buffers(
        pa.binary_view(), rows, [nulls, pa.py_buffer(views), pa.py_buffer(data)]
    )
    series = pl.from_arrow(array)
    assert isinstance(series, pl.Series)
    return series
