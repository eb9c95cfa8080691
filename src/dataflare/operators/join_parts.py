"""Tables that are cut alike by the hash of their keys, so that they can be joined part by part.

A part of all tables together fits into memory, where the tables do not (Grace hash join: Kitsuregawa,
Tanaka and Moto-oka, New Generation Computing 1983).

Always true: between two results the tables hold exactly the rows that were not taken yet, and a cut that
begins again gives the same parts.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import polars as pl

from dataflare.model.hashing import hash_columns
from dataflare.state.pieces import Groups, Piece
from dataflare.state.rows import RowsTable
from dataflare.state.tables import Tables

PART_BYTES = 128 * 2**20
"""A part takes about so many bytes. A join needs several times that while it works on it."""

_HASH = "__dataflare_hash"
_PART = "__dataflare_part_number"


class Parts:
    """Some tables of a subtask, part by part. empty: a frame that may be given as a result, to say that a
    checkpoint may be cut."""

    def __init__(self, state: Tables, tables: Sequence[RowsTable], empty: pl.DataFrame) -> None:
        self._tables, self._subtasks, self._empty = tables, state.subtasks, empty
        self._number = state.value("parts", 0, max)
        self._parts: list[list[list[Piece]]] = []

    def cut(self) -> Iterator[pl.DataFrame]:
        """Cut the tables. What fits into memory stays in one part."""
        if not self._number.value:
            self._number.value = self._wanted()
        number = self._number.value
        by_part: dict[int, list[list[Piece]]] = {}
        for place, table in enumerate(self._tables):
            if number == 1:
                pieces = by_part.setdefault(0, [[] for _ in self._tables])
                pieces[place] = list(table.pieces())
                continue
            cut = yield from self._cut_table(table, number)
            for part, piece in cut:
                by_part.setdefault(part, [[] for _ in self._tables])[place].append(piece)
        self._parts = [by_part[part] for part in sorted(by_part)]

    def take(self) -> list[pl.DataFrame | None] | None:
        """The rows of the next part, by table; None for a table without any there. None after the last.
        The tables hold the part until `done`."""
        if not self._parts:
            return None
        return [
            _frame(table, pieces)
            for table, pieces in zip(self._tables, self._parts[0], strict=True)
        ]

    def done(self) -> None:
        """The part that was taken is no longer in the tables."""
        self._parts.pop(0)
        for place, table in enumerate(self._tables):
            table.set([piece for part in self._parts for piece in part[place]])

    def _wanted(self) -> int:
        """How many parts of the whole hash space there are."""
        total = sum(_bytes(table, piece) for table in self._tables for piece in table.pieces())
        return 1 if total <= PART_BYTES else self._subtasks * -(-total // PART_BYTES)

    def _cut_table(
        self, table: RowsTable, number: int
    ) -> Generator[pl.DataFrame, None, list[tuple[int, Piece]]]:
        cut = _Cut(table, number)
        waiting = table.pieces()
        while waiting:
            piece = waiting.pop(0)
            parts = _split(table.frame_of(piece), table.keys, number)
            if len(parts) == 1 and not piece.in_memory:
                cut.whole.append((parts[0][0], piece))
            else:
                cut.add(parts, aside=not piece.in_memory)
            table.set([*cut.pieces(), *waiting])
            yield self._empty
        cut.finish()
        table.set(cut.pieces())
        return cut.whole


class _Cut:
    """The pieces of a table by part. whole: those that are as large as they should be; loose: small ones,
    which wait to be joined."""

    def __init__(self, table: RowsTable, number: int) -> None:
        self._table, self._number = table, number
        self.whole: list[tuple[int, Piece]] = []
        self._loose: dict[int, list[Piece]] = {}
        self._aside = False
        self._loose_bytes = max(2**20, PART_BYTES // (2 * number))

    def add(self, parts: Sequence[tuple[int, pl.DataFrame]], *, aside: bool) -> None:
        """aside: the rows come from storage, and go back there."""
        self._aside = self._aside or aside
        for part, rows in parts:
            loose = self._loose.setdefault(part, [])
            loose.append(self._table.piece_of(rows))
            if sum(piece.num_bytes for piece in loose) > self._loose_bytes:
                self._join(part)

    def finish(self) -> None:
        for part in list(self._loose):
            self._join(part)

    def pieces(self) -> list[Piece]:
        loose = [piece for pieces in self._loose.values() for piece in pieces]
        return [*(piece for _, piece in self.whole), *loose]

    def _join(self, part: int) -> None:
        frames = [self._table.frame_of(piece) for piece in self._loose.pop(part)]
        rows, groups = pl.concat(frames), _groups(part, self._number)
        piece = (self._table.put_aside if self._aside else self._table.piece_of)(rows, groups)
        self.whole.append((part, piece))


def _frame(table: RowsTable, pieces: Sequence[Piece]) -> pl.DataFrame | None:
    return pl.concat([table.frame_of(piece) for piece in pieces]) if pieces else None


def _bytes(table: RowsTable, piece: Piece) -> int:
    return piece.num_bytes or int(table.frame_of(piece).estimated_size())


def _width(number: int) -> int:
    return -(-(2**64) // number)


def _split(frame: pl.DataFrame, keys: Sequence[str], number: int) -> list[tuple[int, pl.DataFrame]]:
    """The rows by part. The hashes of a part are neighbours, as those of a key group are."""
    hashed = hash_columns(frame.lazy(), keys, _HASH)
    part = (pl.col(_HASH) // pl.lit(_width(number), pl.UInt64)).alias(_PART)
    marked = hashed.with_columns(part).drop(_HASH).collect(engine="in-memory")
    parts = marked.partition_by(_PART, include_key=False, as_dict=True)
    return [(int(str(n)), rows) for (n,), rows in parts.items()]


def _groups(part: int, number: int) -> Groups:
    """The key groups that a part may have rows of."""
    width = _width(number)
    return part * width >> 57, min((part + 1) * width - 1, 2**64 - 1) >> 57
