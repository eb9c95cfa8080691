"""Point stores: values by key outside of memory, for tables that are asked by key.

What is in a point store is made from the pieces of a table, so a checkpoint of one backend restores in each other, and a
store is thrown away when its run ends. A batch of keys is one call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import polars as pl


class PointStore(ABC):
    """One table's values, by key. Used by one thread at a time; it begins empty."""

    @abstractmethod
    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, in their order; None where there is none."""

    @abstractmethod
    def put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Set the values of different keys."""

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """About how much memory it takes."""

    @abstractmethod
    def close(self) -> None:
        """Remove it from disk."""


PointStores = Callable[[], PointStore]
"""Makes a store for a table."""


def point_stores(backend: str, folder: Path, bytes_max: int) -> PointStores | None:
    """What makes the stores of a backend; None for `memory`, which needs none. folder: where they take their room.
    bytes_max: how much memory a store may take. Raises ModuleNotFoundError if its library is not installed."""
    if backend == "sqlite":
        from dataflare.state.points_sqlite import SqlitePoints

        return lambda: SqlitePoints(folder, bytes_max)
    if backend == "rocksdb":
        from dataflare.state.points_rocksdb import RocksPoints, remove_leftovers

        remove_leftovers(folder)
        return lambda: RocksPoints(folder, bytes_max)
    return None


_ENCODE, _DECODE = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode


def rows_as_bytes(frame: pl.DataFrame) -> list[bytes]:
    """Each row as bytes. Every value comes back exactly."""
    wire = {name: _wire(dtype) for name, dtype in frame.schema.items()}
    return [_ENCODE(row) for row in frame.cast(pl.Schema(wire)).rows()]


def rows_of_bytes(values: Sequence[bytes], schema: pl.Schema) -> pl.DataFrame:
    """The rows that `rows_as_bytes` made bytes of."""
    wire = {name: _wire(dtype) for name, dtype in schema.items()}
    rows = [_DECODE(value) for value in values]
    return pl.DataFrame(rows, schema=wire, orient="row").cast(schema)


def _wire(dtype: pl.DataType) -> pl.DataType:
    """A type whose Python values go through MessagePack as they are."""
    if dtype.is_decimal() or dtype in (pl.Int128, pl.UInt128):
        return pl.String()
    if isinstance(dtype, (pl.Categorical, pl.Enum)):
        return pl.String()
    if dtype == pl.Date:
        return pl.Int32()
    if isinstance(dtype, (pl.Datetime, pl.Duration, pl.Time)):
        return pl.Int64()
    if isinstance(dtype, pl.List):
        return pl.List(_wire(dtype.inner))  # type: ignore[arg-type]
    if isinstance(dtype, pl.Array):
        return pl.Array(_wire(dtype.inner), dtype.size)  # type: ignore[arg-type]
    if isinstance(dtype, pl.Struct):
        return pl.Struct([pl.Field(f.name, _wire(f.dtype)) for f in dtype.fields])  # type: ignore[arg-type]
    return dtype
