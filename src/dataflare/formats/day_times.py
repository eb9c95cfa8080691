"""Times outside of a day, such as 24:00:00, in the columns of Parquet and Arrow files.

Polars reads such a time as NULL and says nothing. Parquet tells the least and the greatest value of a
column, Arrow how many are NULL, so that they are found without decoding a column twice.

What a file does not tell is compared: a Parquet file without statistics, and times inside lists and structs of
an Arrow file. If such a column has a NULL, pyarrow reads it too, because it keeps these values. Without pyarrow
the column is refused. Numbers are those of parquet.thrift (parquet-format 2.11),
Schema.fbs, Message.fbs and File.fbs (Arrow columnar format 1.5).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from dataflare.formats.flatbuffer import Table
from dataflare.formats.parquet_footer import footer_bytes
from dataflare.formats.thrift import Reader
from dataflare.formats.thrift import Struct as Fields

_SCHEMA, _GROUPS, _COLUMNS, _META, _STATISTICS = 2, 4, 1, 3, 12
_NAME, _CHILDREN, _CONVERTED, _LOGICAL = 4, 5, 6, 10
_LOGICAL_TIME = 7
_CONVERTED_TIMES = {7: 1, 8: 2}
"""Converted types of times, with the number that their unit has in logical types."""
_DAY = {1: 86_400_000, 2: 86_400_000_000, 3: 86_400_000_000_000}
_MOST, _LEAST = (5, 1), (6, 2)


class UnknownTimes(Exception):
    """A column has NULLs that may be times outside of a day, and there is no pyarrow to tell."""

    def __init__(self, column: str) -> None:
        self.column = column


def beyond_a_day(path: Path, format_: str, names: Sequence[str]) -> str | None:
    """The first of the columns with a time that no day has; None if there is none. Raises
    UnknownTimes."""
    is_parquet = format_ == "parquet"
    untold: set[str] = set()
    found = _parquet(path, untold) if is_parquet else _arrow(path, names, untold)
    column = next((name for name in found if name in names), None)
    if column is not None:
        return column
    scan = pl.scan_parquet if is_parquet else pl.scan_ipc
    for name in names:
        if name in untold:
            rows = (
                scan(path, glob=False, hive_partitioning=False)
                .select(pl.col(name))
                .collect(engine="streaming")
            )
            if _has_null_times(rows[name]) and _compared(path, is_parquet, name):
                return name
    return None


def _has_null_times(values: pl.Series) -> bool:
    """Whether a time is NULL, at any depth."""
    if values.dtype == pl.Time:
        return values.null_count() > 0
    if isinstance(values.dtype, pl.Struct):
        fields = values.drop_nulls().struct
        return any(_has_null_times(fields.field(field.name)) for field in values.dtype.fields)
    if isinstance(values.dtype, pl.Array):
        values = values.arr.to_list()
    if isinstance(values.dtype, pl.List):
        values = values.drop_nulls()
        return _has_null_times(values.filter(values.list.len() > 0).explode())
    return False


def _compared(path: Path, is_parquet: bool, name: str) -> bool:
    """Whether pyarrow reads a time outside of a day in this column."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UnknownTimes(name) from None
    if is_parquet:
        with pq.ParquetFile(path) as file:
            return any(_is_odd(batch[name]) for batch in file.iter_batches(columns=[name]))
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        count = reader.num_record_batches
        return any(_is_odd(reader.get_batch(i).column(name)) for i in range(count))


def _is_odd(values: Any) -> bool:
    """Whether a time in this Arrow array, at any depth, is outside of a day."""
    import pyarrow as pa
    import pyarrow.compute as pc

    type_ = values.type
    if isinstance(type_, pa.BaseExtensionType):
        return _is_odd(values.storage)
    if pa.types.is_dictionary(type_):
        return _is_odd(values.dictionary)
    if pa.types.is_struct(type_):
        return any(_is_odd(field) for field in values.flatten())
    if pa.types.is_map(type_):
        return _is_odd(values.keys) or _is_odd(values.items)
    if (
        pa.types.is_list(type_)
        or pa.types.is_large_list(type_)
        or pa.types.is_fixed_size_list(type_)
    ):
        return _is_odd(values.flatten())
    if not pa.types.is_time(type_):
        return False
    ticks = pc.min_max(values.view(pa.int32() if type_.bit_width == 32 else pa.int64())).as_py()
    day = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}[
        type_.unit
    ]
    return ticks["max"] is not None and (ticks["max"] >= day or ticks["min"] < 0)


def _parquet(path: Path, untold: set[str]) -> Iterator[str]:
    """Adds columns to `untold` whose statistics are not complete."""
    footer = Reader(footer_bytes(path)).struct()
    leaves = list(_leaves(iter(footer[_SCHEMA][1][1])))
    for place, (top, day) in enumerate(leaves):
        if day is None:
            continue
        for group in footer[_GROUPS][1][1] if _GROUPS in footer else ():
            meta = group[_COLUMNS][1][1][place].get(_META, (0, {}))[1]
            told = meta.get(_STATISTICS, (0, {}))[1]
            most, least = _bound(told, _MOST), _bound(told, _LEAST)
            if most is None or least is None:
                untold.add(top)
            if (most is not None and most >= day) or (least is not None and least < 0):
                yield top
                break


def _leaves(elements: Iterator[Fields]) -> Iterator[tuple[str, int | None]]:
    """The column that each leaf is in, and the ticks of a day where the leaf is a time."""
    root = next(elements)
    for _ in range(root[_CHILDREN][1]):
        top = next(elements)
        name, left = top[_NAME][1].decode(), 1
        element = top
        while True:
            children = element.get(_CHILDREN, (0, 0))[1]
            if not children:
                yield name, _day_of(element)
            left += children - 1
            if not left:
                break
            element = next(elements)


def _day_of(element: Fields) -> int | None:
    logical = element.get(_LOGICAL, (0, {}))[1].get(_LOGICAL_TIME)
    if logical is not None:
        return _DAY[next(iter(logical[1][2][1]))]
    unit = _CONVERTED_TIMES.get(element.get(_CONVERTED, (0, None))[1])
    return None if unit is None else _DAY[unit]


def _bound(statistics: Fields, numbers: tuple[int, int]) -> int | None:
    raw = next((statistics[n][1] for n in numbers if n in statistics), None)
    return None if raw is None else int.from_bytes(raw, "little", signed=True)


_KIND_TIME = 9
_BLOCK = struct.Struct("<qi4xq")
_NODE = struct.Struct("<qq")


def _arrow(path: Path, names: Sequence[str], untold: set[str]) -> Iterator[str]:
    """Adds columns to `untold` whose times are inside lists and structs."""
    with path.open("rb") as file:
        file.seek(-10, 2)
        tail = file.read()
        if tail[4:] != b"ARROW1":
            return
        file.seek(-10 - struct.unpack("<i", tail[:4])[0], 2)
        footer = Table.root(file.read(struct.unpack("<i", tail[:4])[0]))
        schema = footer.table(1)
        if schema is None:
            return
        places, place = {}, 0
        for field in schema.tables(1):
            if field.integer(2, "B") == _KIND_TIME and field.text(0) in names:
                places[field.text(0)] = place
            elif field.text(0) in names:
                untold.add(field.text(0))
            place += _nodes(field)
        if not places:
            return
        blocks = list(footer.structs(3, _BLOCK))
        told = dict.fromkeys(places, 0)
        for offset, _, _ in blocks:
            nodes = _batch_nodes(file, offset)
            for name in places:
                told[name] += nodes[places[name]][1]
    nulls = (
        pl.scan_ipc(path, glob=False)
        .select(pl.col(list(places)).null_count())
        .collect(engine="streaming")
    )
    yield from (name for name in places if nulls[name].item() != told[name])


def _nodes(field: Table) -> int:
    """How many nodes of a record batch a field has: its own and those of its children."""
    if field.field(4) is not None:  # the values of a dictionary are elsewhere
        return 1
    return 1 + sum(map(_nodes, field.tables(5)))


def _batch_nodes(file: BinaryIO, offset: int) -> list[tuple[Any, ...]]:
    """(length, NULLs) of each node of the record batch whose message is there."""
    file.seek(offset)
    size = struct.unpack("<i", file.read(4))[0]
    if size == -1:
        size = struct.unpack("<i", file.read(4))[0]
    batch = Table.root(file.read(size)).table(2)
    return [] if batch is None else list(batch.structs(1, _NODE))
