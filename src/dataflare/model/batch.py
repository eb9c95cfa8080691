"""An immutable batch of rows in Arrow memory, which tasks send to each other.

Always true:
- cloning and slicing copy no rows;
- the rows of one batch all have the batch's schema;
- in a changelog the two halves of an update are adjacent rows of one batch. `slice` and `filter` do
  not check row kinds, so a caller that cuts a changelog must keep the halves together;
- a TRUNCATE is the only row of its batch, and has NULL in all columns.
Reserved columns begin with RESERVED; users' columns may not.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import polars as pl

from dataflare.model.foreign import to_held_types
from dataflare.model.progress import Watermark
from dataflare.model.types import RESERVED, Schema

KIND_COLUMN = "__dataflare_kind"
"""Reserved column of a changelog: the row kind, UInt8."""

_EMPTY: Mapping[str, Any] = MappingProxyType({})


class RowKind(enum.IntEnum):
    """The kind of change that a row of a changelog describes. TRUNCATE: all rows of the table before it went. It comes
    only where every step behind the source takes it."""

    INSERT = 0
    UPDATE_BEFORE = 1
    UPDATE_AFTER = 2
    DELETE = 3
    TRUNCATE = 4


Kinds = frozenset[RowKind]
INSERTS: Kinds = frozenset({RowKind.INSERT})
CHANGES: Kinds = frozenset(RowKind) - {RowKind.TRUNCATE}
UPDATES: Kinds = frozenset({RowKind.UPDATE_BEFORE, RowKind.UPDATE_AFTER})


class SharedDataBatch:
    """Rows that any number of tasks may share, because they never change.

    frame: the rows; with a KIND_COLUMN it is a changelog, without one all rows are inserts.
    metadata: small facts about the batch (split, file), never about single rows.
    read_at_s: when its rows were read, or those that they were made of, by the clock of the event loop; 0 if that is not
    known. traced: what it carries where it is traced (see `sdk.tracing`).
    """

    __slots__ = ("_bytes", "frame", "metadata", "num_rows", "read_at_s", "traced", "watermark")

    def __init__(
        self,
        frame: pl.DataFrame,
        *,
        metadata: Mapping[str, Any] = _EMPTY,
        watermark: Watermark | None = None,
        read_at_s: float = 0.0,
        traced: Any = None,
    ) -> None:
        self.frame = frame
        self.read_at_s = read_at_s
        self.traced = traced
        self.num_rows: int = frame.height
        self.metadata = MappingProxyType(dict(metadata)) if metadata else _EMPTY
        self.watermark = watermark
        self._bytes: int | None = None

    @classmethod
    def from_arrow(cls, source: Any, **options: Any) -> SharedDataBatch:
        """Take any object with the Arrow C stream interface (or a pyarrow table), without a copy
        where Polars can hold its layout. A type that DataFlare does not have becomes the nearest type
        that holds its values. Raises DataError (E0509) with the column's name if there is no such type."""
        frame = (
            pl.DataFrame(source) if hasattr(source, "__arrow_c_stream__") else pl.from_arrow(source)
        )
        assert isinstance(frame, pl.DataFrame)
        return cls(to_held_types(frame), **options)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.frame.__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        return self.num_rows

    def __repr__(self) -> str:
        content = "changelog" if self.is_changelog else "rows"
        return f"SharedDataBatch({self.num_rows} {content}, {', '.join(self.schema.names)})"

    @property
    def num_bytes(self) -> int:
        """Estimated size in memory, counted once."""
        if self._bytes is None:
            self._bytes = int(self.frame.estimated_size())
        return self._bytes

    @property
    def schema(self) -> Schema:
        """The user's columns; reserved ones are left out."""
        return Schema.from_polars(
            {n: t for n, t in self.frame.schema.items() if not n.startswith(RESERVED)}
        )

    @property
    def is_changelog(self) -> bool:
        return KIND_COLUMN in self.frame.columns

    @property
    def kinds(self) -> pl.Series | None:
        """Row kinds (see RowKind) of a changelog, None when all rows are inserts."""
        return self.frame[KIND_COLUMN] if self.is_changelog else None

    def clone(self) -> SharedDataBatch:
        return self._with(self.frame)

    def slice(self, offset: int, length: int | None = None) -> SharedDataBatch:
        """`length` rows from `offset` on, sharing memory."""
        return self._with(self.frame.slice(offset, length))

    def map(self, change: Callable[[pl.DataFrame], pl.DataFrame]) -> SharedDataBatch:
        """The batch that `change` makes of the rows; metadata and watermark stay."""
        return self._with(change(self.frame))

    def filter(self, condition: pl.Expr) -> SharedDataBatch:
        """The rows where `condition` is true."""
        return self._with(self.frame.filter(condition))

    def with_metadata(self, **facts: Any) -> SharedDataBatch:
        return SharedDataBatch(
            self.frame, metadata={**self.metadata, **facts}, watermark=self.watermark
        )

    def with_watermark(self, watermark: Watermark | None) -> SharedDataBatch:
        return SharedDataBatch(self.frame, metadata=self.metadata, watermark=watermark)

    def with_kinds(self, kinds: pl.Series) -> SharedDataBatch:
        """The same rows as a changelog. kinds: one RowKind a row."""
        return self._with(self.frame.with_columns(kinds.cast(pl.UInt8).alias(KIND_COLUMN)))

    @staticmethod
    def merge(batches: Sequence[SharedDataBatch]) -> SharedDataBatch:
        """All rows in order. It takes at least one batch; the schemas must be equal. The watermark is
        the greatest one. Of metadata with the same name, the last batch's value is used."""
        if len(batches) == 1:
            return batches[0]
        frames = [batch.frame for batch in batches]
        if any(batch.is_changelog for batch in batches):
            frames = [
                f
                if KIND_COLUMN in f.columns
                else f.with_columns(pl.lit(0, pl.UInt8).alias(KIND_COLUMN))
                for f in frames
            ]
        marks = [batch.watermark for batch in batches if batch.watermark is not None]
        metadata: dict[str, Any] = {}
        for batch in batches:
            metadata.update(batch.metadata)
        return SharedDataBatch(
            pl.concat(frames, how="vertical", rechunk=False),
            metadata=metadata,
            watermark=max(marks) if marks else None,
            read_at_s=min(batch.read_at_s for batch in batches),
        )

    def _with(self, frame: pl.DataFrame) -> SharedDataBatch:
        return SharedDataBatch(
            frame, metadata=self.metadata, watermark=self.watermark, read_at_s=self.read_at_s
        )


def truncation(schema: Mapping[str, pl.DataType] | pl.Schema) -> pl.DataFrame:
    """The row that says that all rows of a table went. schema: of the table's rows."""
    names = {name: dtype for name, dtype in schema.items() if name != KIND_COLUMN}
    row = pl.DataFrame(schema=names).clear(1)
    return row.with_columns(pl.lit(RowKind.TRUNCATE, pl.UInt8).alias(KIND_COLUMN))


def is_truncation(frame: pl.DataFrame) -> bool:
    """Whether a batch is a TRUNCATE."""
    return (
        frame.height == 1
        and KIND_COLUMN in frame.columns
        and frame[KIND_COLUMN][0] == RowKind.TRUNCATE
    )


_UNOPTIMISED = pl.QueryOptFlags.none()


def few_rows(query: pl.LazyFrame) -> pl.DataFrame:
    """The rows of a query over few rows in memory, which cost less than to look for a better query."""
    return query.collect(engine="in-memory", optimizations=_UNOPTIMISED)


def private(frame: pl.DataFrame) -> pl.DataFrame:
    """The same rows in a new frame object, for a thread that writes them.

    Avoids a deadlock: Polars locks a frame object while it writes it, and calls back into Python for
    every write to a file object. Another thread that asks the same object for its height waits for
    that lock while it holds the interpreter's lock. So a thread always writes a clone.
    """
    return frame.clone()
