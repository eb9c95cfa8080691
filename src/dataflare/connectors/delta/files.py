"""Data files of a Delta table: written with their statistics, and read as the table's columns."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote, unquote

import polars as pl
import pyarrow as pa
from deltalake.transaction import AddAction, RemoveAction
from msgspec import Struct

from dataflare.connectors.delta.errors import delta_errors
from dataflare.errors import DataFlareError
from dataflare.model.types import Schema
from dataflare.sdk.lakes.parquet_files import ParquetFiles, Statistics, frames_of
from dataflare.sdk.lakes.table import Bounds, DataFile

INDEXED_COLUMNS = 32
_NULL = "__HIVE_DEFAULT_PARTITION__"


class Stored(Struct, frozen=True):
    """The handle of a file: what the log says of it. partition: its values as text, by column. values: as the
    columns have them. stats: JSON."""

    partition: Mapping[str, str | None]
    values: Mapping[str, Any]
    stats: str = ""


def arrow_schema(schema: Schema) -> pa.Schema:
    """The columns of a file, with pyarrow's types for what Polars gives."""
    empty = pl.DataFrame(schema=schema.to_polars())
    arrow: pa.Schema = empty.to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    return arrow


class DeltaFiles(ParquetFiles):
    """Files that a table gets. columns: those of the table. partitions: the columns that are in the log and
    not in the files."""

    def __init__(
        self, prefix: str, schema: Schema, partitions: Sequence[str], filesystem: Any, label: str
    ) -> None:
        inside = [name for name in schema.names if name not in partitions]
        # Statistics of nested columns have another form, and are not needed.
        plain = [n for n in inside[:INDEXED_COLUMNS] if schema[n].name not in ("list", "struct")]
        super().__init__(prefix, arrow_schema(schema.select(inside)), plain)
        self._partition_names, self._filesystem, self._label = list(partitions), filesystem, label

    def parted(self, frame: pl.DataFrame) -> Iterable[tuple[Any, pl.DataFrame]]:
        if not self._partition_names:
            return [((), frame)]
        parts = frame.partition_by(self._partition_names, as_dict=True, maintain_order=True)
        return parts.items()

    def path_of(self, partition: Any, name: str) -> str:
        pairs = zip(self._partition_names, partition, strict=True)
        folders = [f"{quote(n, safe='')}={_folder(value)}" for n, value in pairs]
        # The log has paths with escapes, so a percent sign in the name of a folder is escaped.
        return quote("/".join([*folders, name]), safe="/=")

    def create(self, path: str) -> Any:
        return self._filesystem.open_output_stream(unquote(path))

    def errors(self, path: str) -> Any:
        return delta_errors(self._label, "writing")

    def delete(self, path: str) -> None:
        try:
            with self.errors(path):
                self._filesystem.delete_file(unquote(path))
        except DataFlareError:  # a file that stays is removed by a vacuum
            return

    def described(
        self, path: str, partition: Any, num_bytes: int, rows: int, statistics: Statistics, metadata: Any
    ) -> DataFile:  # fmt: skip
        values = dict(zip(self._partition_names, partition, strict=True))
        texts = {name: partition_text(value) for name, value in values.items()}
        stats = _stats_json(rows, statistics)
        bounds = {**statistics.bounds, **_bounds_of(values)}
        return DataFile(path, rows, Stored(texts, values, stats), num_bytes, bounds)


def _folder(value: Any) -> str:
    """The name of a partition's folder: some programs read values from it."""
    text = partition_text(value)
    return _NULL if text is None else quote(text, safe="")


def _bounds_of(values: Mapping[str, Any]) -> dict[str, Bounds]:
    return {name: Bounds(value, value) for name, value in values.items() if value is not None}


def partition_text(value: Any) -> str | None:
    """A value of a partition column in the log."""
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case datetime():
            if value.tzinfo is not None:
                value = value.astimezone(UTC)
            return str(value.strftime("%Y-%m-%d %H:%M:%S.%f"))
        case date():
            return str(value.isoformat())
    return str(value)


def _stats_json(rows: int, statistics: Statistics) -> str:
    lows, highs = {}, {}
    for name, bounds in statistics.bounds.items():
        lows[name], highs[name] = _stat(bounds.low), _stat(bounds.high)
    stats = {
        "numRecords": rows, "minValues": lows, "maxValues": highs, "nullCount": statistics.nulls
    }  # fmt: skip
    return json.dumps(stats)


def _stat(value: Any) -> Any:
    match value:
        case datetime():
            if value.tzinfo is None:
                return value.strftime("%Y-%m-%dT%H:%M:%S.%f")
            return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        case date():
            return value.isoformat()
        case Decimal():
            return float(value)
    return value


def add_action(file: DataFile) -> AddAction:
    stored = file.handle
    now = int(time.time() * 1000)
    # deltalake escapes paths when it writes them to the log.
    return AddAction(unquote(file.path), file.num_bytes, stored.partition, now, True, stored.stats)


def remove_action(file: DataFile) -> RemoveAction:
    values = dict(file.handle.partition)
    return RemoveAction(unquote(file.path), True, int(time.time() * 1000), file.num_bytes, values)


def files_of(actions: Any, partitions: Sequence[str], schema: Schema) -> list[DataFile]:
    """The files of a version. actions: of deltalake, not flat: there `min.a.b` may be of column 'a.b' and of field 'b' of
    column 'a'."""
    frame = pl.DataFrame(actions).sort("path")
    # Bounds of floats leave NaN out, and those of decimals and of times are rounded by some programs.
    bounded = [
        f.name
        for f in schema
        if f.type.name in ("int8", "int16", "int32", "int64", "string", "date")
    ]
    files: list[DataFile] = []
    for row in frame.iter_rows(named=True):
        values = {name: (row.get("partition") or {}).get(name) for name in partitions}
        texts = {name: partition_text(value) for name, value in values.items()}
        lows, highs = row.get("min") or {}, row.get("max") or {}
        bounds = {
            name: Bounds(lows[name], highs[name])
            for name in bounded
            if lows.get(name) is not None and highs.get(name) is not None
        }
        files.append(
            DataFile(
                row["path"],
                row.get("num_records"),
                Stored(texts, values),
                row["size_bytes"],
                {**bounds, **_bounds_of(values)},
            )
        )
    return files


def read_frames(
    filesystem: Any, file: DataFile, schema: Schema, columns: Sequence[str], skip: int, label: str
) -> Iterator[pl.DataFrame]:
    """The rows of a file behind the first `skip`, with these columns of the table."""
    values = file.handle.values
    inside = [name for name in columns if name not in values]
    with delta_errors(label, "reading"), filesystem.open_input_file(unquote(file.path)) as opened:
        for table in frames_of(opened, inside, skip):
            height = table.num_rows
            frame = pl.DataFrame(pl.from_arrow(table)) if table.num_columns else pl.DataFrame(height=height)  # fmt: skip
            yield frame.select(_column(frame, name, schema, values, height) for name in columns)


def _column(
    frame: pl.DataFrame, name: str, schema: Schema, values: Mapping[str, Any], height: int
) -> pl.Series:
    dtype = schema[name].to_polars()
    if name in values or name not in frame.columns:
        value = pl.Series(name, [values.get(name)], dtype=dtype)
        return value.new_from_index(0, height)
    series = frame[name]
    return series if series.dtype == dtype else series.cast(dtype)
