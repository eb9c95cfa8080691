"""What a reader hands out where it reads by chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from dataflare.model.bad_rows import BadRow
from dataflare.model.new_fields import NewFields
from dataflare.model.progress import Position

if TYPE_CHECKING:
    import polars as pl


class Salvaged(Struct, frozen=True):
    """What a failing chunk holds: its good rows, with their index in the chunk, and the bad ones (as
    `BadRows` where there may be many)."""

    good: pl.DataFrame
    good_rows: pl.Series
    bad: Sequence[BadRow]


class InMemory(Struct, frozen=True):
    """rows_max: how many rows a chunk has at most. rows: those that its `scan` gives. Raises what that raises."""

    rows_max: int
    rows: Callable[[], pl.DataFrame]


class Chunk(Struct, frozen=True):
    """Some megabytes of a split that become one lazy query, so that the steps that follow merge
    into the scan.

    scan: builds the query; called on the worker pool; collecting may raise Polars errors when a
    field does not parse. position: after the chunk's last row. key: a number that is the same
    each time the chunk is read (a byte offset, a row number), unique in the split. num_bytes: an
    estimate. rows: how many the scan gives, where that is known, or what finds it out on the worker
    pool. salvage: reads a failing chunk row by row. place: where row i of it is, to show to the user, such
    as 'orders.csv line 812'; may be slow, asked only for errors.

    new_fields: finds the fields of its rows that the columns lack, at any cost; None for a chunk that
    cannot have any. Rows are numbered as `scan` and `salvage` number them. watched: the same rows as
    `scan` gives, and their new fields, found quickly; raises what `scan` raises.
    texts: gives rows as they stand in the chunk, for a source whose rows are read again one by one. originals:
    in its place, gives rows as dead letters hold them (JSON), where that is more than their text.

    bad: the rows that are known to be bad before the scan, which gives the others. row_numbers: the numbers of
    the rows that the scan gives, by which `bad` and `place` count; None: they are 0, 1, 2 ... may_cut: whether
    a checkpoint may be cut behind the chunk.

    parents: the traces that its messages name (see `sdk.tracing`).

    work_bytes: about how much memory it takes while it is worked on, where that is much more than
    num_bytes: the engine reads no more chunks than the budget has room for.

    in_memory: where the rows are worked out of memory, without waiting for any system: a chunk of few rows is
    computed at once then.
    """

    scan: Callable[[], pl.LazyFrame]
    position: Position
    key: int
    num_bytes: int
    rows: int | Callable[[], int | None] | None = None
    salvage: Callable[[], Salvaged] | None = None
    place: Callable[[int], str] | None = None
    new_fields: Callable[[], NewFields | None] | None = None
    watched: Callable[[], tuple[pl.LazyFrame, NewFields | None]] | None = None
    texts: Callable[[Sequence[int]], Sequence[bytes]] | None = None
    originals: Callable[[Sequence[int]], Sequence[str]] | None = None
    work_bytes: int | None = None
    bad: Sequence[BadRow] = ()
    row_numbers: pl.Series | None = None
    may_cut: bool = True
    in_memory: InMemory | None = None
    parents: tuple[str, ...] = ()

    def count(self) -> int | None:
        """How many rows the scan gives, or None; may pass over the data."""
        return self.rows() if callable(self.rows) else self.rows
