"""The state of one operator's subtask: tables by name, which the engine freezes, stores and restores.

An operator declares its tables when it opens and only works with them. It writes no snapshot, reads none,
and knows nothing of other subtasks.

Always true:
- freezing copies and merges nothing: it takes the list of pieces as it is;
- a piece that is in storage is not written again, also after a restart;
- a restored table holds the rows of the subtask's own key groups and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import polars as pl
from msgspec import Struct, field

from dataflare.state.keyset import KeySet
from dataflare.state.log import Log, Merge
from dataflare.state.newest import Newest
from dataflare.state.pieces import (
    ALL_GROUPS,
    Chunk,
    ChunkStorage,
    Piece,
    own_rows,
    owned_groups,
)
from dataflare.state.point_tables import PointKeys, PointNewest
from dataflare.state.points import PointStore, PointStores
from dataflare.state.rows import Keeper, RowsTable
from dataflare.state.timers import FIRST, Timers


class Table(Protocol):
    """What the engine asks of a table."""

    @property
    def keys(self) -> tuple[str, ...]: ...

    def pieces(self) -> Sequence[Piece]: ...


class TableShare(Struct, frozen=True):
    """The state of one former subtask: chunks by table, and small values (JSON) by name. legacy: it was
    written before tables had names; its chunks belong to the first table that is declared."""

    chunks: Mapping[str, Sequence[Chunk]]
    values: Mapping[str, Any] = field(default_factory=dict)
    legacy: bool = False


class Frozen(Struct, frozen=True):
    """The state as it was at a barrier. runs: by table, pieces in lists of neighbours; those of a log may
    be merged."""

    runs: Mapping[str, Sequence[Sequence[Piece]]]
    values: Mapping[str, Any]


class Value:
    """A small value (JSON) of one subtask."""

    def __init__(self, value: Any) -> None:
        self.value = value


_LEVELS_SHARE = 4
"""A set of keys in memory may take a quarter of what its tables may, so that it can be written with room to spare."""

LEGACY = ""
"""The name of the chunks of a share without table names."""


class Tables:
    """subtask of subtasks: whose state it is. shares: what it goes on from, by former subtask. folder: of files
    that are needed only while it lives; None: the system's folder for temporary files. points: makes the stores of
    tables that are asked by key; None: they are asked in memory."""

    def __init__(
        self,
        subtask: int = 0,
        subtasks: int = 1,
        *,
        storage: ChunkStorage | None = None,
        shares: Sequence[TableShare] = (),
        folder: Path | None = None,
        points: PointStores | None = None,
    ) -> None:
        self.subtask, self.subtasks = subtask, subtasks
        self.groups = owned_groups(subtask, subtasks)
        self._storage, self._shares, self._folder = storage, shares, folder
        self._points = points
        self._tables: dict[str, Table] = {}
        self._found: dict[str, Newest] = {}
        self._stores: list[PointStore] = []
        self._values: dict[str, Value] = {}

    # -- declared by operators ---------------------------------------------------------------------

    def log(
        self, name: str, keys: Sequence[str], merge: Merge, former: Sequence[str] | None = None
    ) -> Log:
        """Partial aggregates by key. See `Log`. former: the names of restored logs that it goes on from, if
        not its own."""
        names = (name,) if former is None else former
        shares = [pieces for each in names for pieces in self._restored(each, keys)]
        log = Log(keys, merge, self.groups, self._storage, shares)
        self._tables[name] = log
        return log

    def newest(self, name: str, keys: Sequence[str]) -> Newest | PointNewest:
        """The newest row of each key, found by key. See `Newest`."""
        names = list(keys)

        def last(frame: pl.DataFrame) -> pl.DataFrame:
            if not names:
                return frame.tail(1)
            return frame.unique(subset=names, keep="last", maintain_order=True)

        log = self.log(name, keys, last)
        if self._points is not None and names:
            return PointNewest(log, self._point_store())
        table = self._found[name] = Newest(log)
        return table

    def _point_store(self) -> PointStore:
        assert self._points is not None
        store = self._points()
        self._stores.append(store)
        return store

    def absorb(self, log: Log, name: str) -> None:
        """Move what the log of a name holds into another log, and forget the name."""
        other = self._tables.pop(name)
        assert isinstance(other, Log)
        log.absorb(other)

    def keys(self, name: str, keys: Sequence[str]) -> KeySet | PointKeys:
        """A set of keys. See `KeySet`."""
        if self._points is not None:
            return PointKeys(self.log(name, keys, _as_they_are), self._point_store())
        shares = self._restored(name, keys)
        table = KeySet(keys, self.groups, self._storage, shares, self._folder)
        self._tables[name] = table
        return table

    def rows(self, name: str, keys: Sequence[str] = ()) -> RowsTable:
        """Rows in the order in which they came. See `RowsTable`."""
        shares = self._restored(name, keys)
        table = RowsTable(keys, self.groups, self._storage, shares, self._folder)
        self._tables[name] = table
        return table

    def queue(self, name: str) -> RowsTable:
        """Frames that wait and belong to no key: those of former subtasks are shared out."""
        own = [
            [Piece(None, ALL_GROUPS, [chunk]) for chunk in share.chunks.get(name, ())]
            for place, share in enumerate(self._shares)
            if place % self.subtasks == self.subtask
        ]
        table = RowsTable((), self.groups, self._storage, own)
        self._tables[name] = table
        return table

    def timers(self, name: str, keys: Sequence[str] = ()) -> Timers:
        """Rows that come back at a moment of event time. See `Timers`."""
        told = self.value(f"{name}.told", FIRST, min)
        table = Timers(keys, told, self.groups, self._storage, self._restored(name, keys))
        self._tables[name] = table
        return table

    def value(self, name: str, initial: Any, joined: Callable[[Sequence[Any]], Any]) -> Value:
        """A small value. joined: makes one of those of several former subtasks."""
        former = [share.values[name] for share in self._shares if name in share.values]
        value = self._values[name] = Value(joined(former) if former else initial)
        return value

    def names(self, prefix: str) -> list[str]:
        """The names of restored tables that begin so."""
        names = [name for share in self._shares for name in share.chunks if name.startswith(prefix)]
        return list(dict.fromkeys(names))

    def drop(self, name: str) -> None:
        """Forget a table."""
        table = self._tables.pop(name, None)
        for piece in table.pieces() if table is not None else ():
            piece.release(self._storage)

    # -- used by the engine ------------------------------------------------------------------------

    def freeze(self) -> Frozen:
        """The state as it is now. Copies no rows."""
        runs: dict[str, Sequence[Sequence[Piece]]] = {}
        for name, table in self._tables.items():
            lists = table.runs() if isinstance(table, Log) else [table.pieces()]
            runs[name] = [tuple(each) for each in lists]
        values = {name: value.value for name, value in self._values.items()}
        return Frozen(runs, values)

    def store(self, frozen: Frozen) -> TableShare:
        """Make a frozen state durable; what is stored already is not written again. Blocking; while
        it runs, the operator may go on."""
        assert self._storage is not None
        chunks = {}
        for name, runs in frozen.runs.items():
            table = self._tables.get(name)
            keys = () if table is None else table.keys
            pieces = (
                table.compacted(runs)
                if isinstance(table, Log)
                else [piece for run in runs for piece in run]
            )
            chunks[name] = [chunk for p in pieces for chunk in p.store(self._storage, keys)]
        return TableShare(chunks, frozen.values)

    def num_bytes(self) -> int:
        """About how much memory the tables take."""
        total = sum(
            piece.num_bytes
            for table in self._tables.values()
            for piece in table.pieces()
            if piece.in_memory
        )
        total += sum(keeper.index_bytes for keeper in self._keepers())
        total += sum(store.num_bytes for store in self._stores)
        return total + sum(table.num_bytes for table in self._found.values())

    @property
    def in_memory(self) -> bool:
        """Whether all is in memory: nothing that an operator does with the tables reads or writes a disk."""
        return (
            not self._stores
            and all(piece.in_memory for table in self._tables.values() for piece in table.pieces())
            and not any(keeper.on_disk for keeper in self._keepers())
        )

    def exceed(self, bytes_max: int) -> bool:
        """Whether `keep_within` has something to do."""
        levels_max = bytes_max // _LEVELS_SHARE
        too_large = any(keeper.level_bytes > levels_max for keeper in self._keepers())
        return too_large or self.num_bytes() > bytes_max

    def keep_within(self, bytes_max: int) -> None:
        """Keep no more than about so many bytes in memory. Blocking where something must leave."""
        for keeper in self._keepers():
            if keeper.level_bytes > bytes_max // _LEVELS_SHARE:
                keeper.spill()
        if self.num_bytes() > bytes_max:
            self.spill(bytes_max // 2)

    def spill(self, bytes_max: int) -> None:
        """Write the largest pieces of logs and rows, and sets of keys, to storage, until no more than `bytes_max`
        bytes are in memory. The next checkpoint finds them there. Blocking."""
        if self._storage is None:
            return
        held = self.num_bytes()
        for size, leave in sorted(self._leaving(self._storage), key=itemgetter(0), reverse=True):
            if held <= bytes_max:
                return
            leave()
            held -= size

    def _leaving(self, storage: ChunkStorage) -> Iterator[tuple[int, Callable[[], None]]]:
        """What may leave memory: its size, and a call that writes it and lets it go."""
        for keeper in self._keepers():
            yield keeper.level_bytes, keeper.spill
        for table in self._tables.values():
            if isinstance(table, KeySet):
                continue
            if not isinstance(table, RowsTable) or table.spills:
                for piece in table.pieces():
                    if piece.in_memory:
                        yield piece.num_bytes, partial(_put_aside, piece, storage, table.keys)

    def _keepers(self) -> list[Keeper]:
        """What takes rows out of memory itself."""
        found: list[Keeper] = []
        for table in self._tables.values():
            if isinstance(table, KeySet):
                found.append(table)
            elif isinstance(table, RowsTable) and table.keeper is not None:
                found.append(table.keeper)
        return found

    def close(self) -> None:
        """Give back what is held beside memory."""
        for keeper in self._keepers():
            keeper.close()
        for store in self._stores:
            store.close()
        self._stores.clear()

    def _restored(self, name: str, keys: Sequence[str]) -> list[list[Piece]]:
        """The pieces of a table, by former subtask."""
        return [
            [
                piece
                for chunk in share.chunks.get(LEGACY if share.legacy else name, ())
                if (piece := self._own(chunk, keys)) is not None
            ]
            for share in self._shares
            if not (share.legacy and self._tables)
        ]

    def _own(self, chunk: Chunk, keys: Sequence[str]) -> Piece | None:
        """A chunk as a piece, with the rows of this subtask only. One without key groups is read by
        every subtask."""
        assert self._storage is not None
        if not keys:
            return Piece(None, ALL_GROUPS, [chunk]) if self.subtask == 0 else None
        first, last = self.groups
        low, high = chunk.key_groups or ALL_GROUPS
        if high < first or last < low:
            return None
        if first <= low and high <= last:
            return Piece(None, (low, high), [chunk])
        rows = own_rows(self._storage.read(chunk), keys, self.subtask, self.subtasks)
        return Piece(rows, (max(low, first), min(high, last))) if rows.height else None


def _as_they_are(frame: pl.DataFrame) -> pl.DataFrame:
    return frame


def _put_aside(piece: Piece, storage: ChunkStorage, keys: Sequence[str]) -> None:
    piece.store(storage, keys)
    piece.leave_memory()
