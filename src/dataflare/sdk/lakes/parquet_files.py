"""Rows to Parquet files of a table, row group by row group, one open file for each partition.

Always true: what is in memory is bounded by the row groups that are being gathered; a file that was ended
is complete, and no reader of the table knows it before a commit.
"""

from __future__ import annotations

import uuid
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from dataflare.errors import DataFlareError
from dataflare.sdk.lakes.table import Bounds, DataFile, FileWriter

GROUP_ROWS = 122_880
_GROUP_BYTES = 32 * 2**20
_HELD_BYTES = 96 * 2**20
FILE_BYTES = 128 * 2**20
_OPEN_FILES = 32
_TEXT_MAX = 64


class Statistics:
    """Of the rows of a file: nulls and bounds by column. Bounds are left out where they would not be exact."""

    def __init__(self, columns: Iterable[str]) -> None:
        self.nulls = dict.fromkeys(columns, 0)
        self._bounds: dict[str, Bounds | None] = {}

    def add(self, frame: pl.DataFrame) -> None:
        for name in self.nulls:
            series = frame[name]
            self.nulls[name] += series.null_count()
            if name in self._bounds and self._bounds[name] is None:
                continue
            found = _bounds(series)
            if isinstance(found, Bounds) and (old := self._bounds.get(name)) is not None:
                found = Bounds(min(old.low, found.low), max(old.high, found.high))
            if found is not _ALL_NULL:
                self._bounds[name] = found

    @property
    def bounds(self) -> Mapping[str, Bounds]:
        return {name: each for name, each in self._bounds.items() if each is not None}


_ALL_NULL = object()


def _bounds(series: pl.Series) -> Any:
    """Bounds; None where they cannot be told, _ALL_NULL where there is no value."""
    if series.null_count() == len(series):
        return _ALL_NULL
    dtype = series.dtype
    if dtype.is_float():
        if not series.drop_nulls().is_finite().all():
            return None
    elif dtype == pl.String:
        if (series.str.len_chars().max() or 0) > _TEXT_MAX:  # type: ignore[operator]
            return None
    elif not (dtype.is_integer() or dtype in (pl.Date,) or isinstance(dtype, pl.Datetime)):
        return None
    try:
        return Bounds(series.min(), series.max())
    except (ValueError, OverflowError):  # a time that Python's datetime does not reach
        return None


class _File(Struct):
    path: str
    stream: Any
    parquet: Any
    statistics: Statistics
    rows: int = 0


class _Partition(Struct):
    held: list[pl.DataFrame]
    held_rows: int = 0
    held_bytes: int = 0
    file: _File | None = None


class ParquetFiles(FileWriter):
    """prefix: of the files' names. schema: of the columns in the files. columns: with statistics."""

    def __init__(self, prefix: str, schema: pa.Schema, columns: Iterable[str]) -> None:
        self._prefix, self._schema, self._columns = prefix, schema, list(columns)
        self._partitions: dict[Any, _Partition] = {}
        self._ended: list[DataFile] = []
        self._held_bytes = 0

    # -- for subclasses ----------------------------------------------------------------------------

    def parted(self, frame: pl.DataFrame) -> Iterable[tuple[Any, pl.DataFrame]]:
        """The rows of each partition, by a hashable value for it."""
        return [((), frame)]

    @abstractmethod
    def path_of(self, partition: Any, name: str) -> str:
        """The path of a new file."""

    @abstractmethod
    def create(self, path: str) -> Any:
        """A stream of pyarrow into a new file."""

    @abstractmethod
    def described(
        self, path: str, partition: Any, num_bytes: int, rows: int, statistics: Statistics, metadata: Any
    ) -> DataFile:  # fmt: skip
        """The file as the table knows it. metadata: of pyarrow."""

    @abstractmethod
    def errors(self, path: str) -> Any:
        """A context that converts the library's exceptions."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove a file. Never raises."""

    # -- the writer --------------------------------------------------------------------------------

    def add(self, frame: pl.DataFrame) -> None:
        for slice_ in frame.iter_slices(GROUP_ROWS):
            for key, rows in self.parted(slice_):
                partition = self._partitions.setdefault(key, _Partition([]))
                num_bytes = int(rows.estimated_size())
                partition.held.append(rows)
                partition.held_rows += rows.height
                partition.held_bytes += num_bytes
                self._held_bytes += num_bytes
                if partition.held_rows >= GROUP_ROWS or partition.held_bytes >= _GROUP_BYTES:
                    self._write_group(key, partition)
            if self._held_bytes > _HELD_BYTES:
                for key, each in self._partitions.items():
                    self._write_group(key, each)

    def _write_group(self, key: Any, partition: _Partition) -> None:
        if not partition.held:
            return
        frame = pl.concat(partition.held)
        partition.held, partition.held_rows = [], 0
        self._held_bytes -= partition.held_bytes
        partition.held_bytes = 0
        file = partition.file or self._opened(key, partition)
        with self.errors(file.path):
            file.parquet.write_table(self._arrow(frame), row_group_size=GROUP_ROWS)
            size = file.stream.tell()
        file.statistics.add(frame)
        file.rows += frame.height
        if size >= FILE_BYTES:
            self._end(key, partition)

    def _arrow(self, frame: pl.DataFrame) -> pa.Table:
        table = frame.select(self._schema.names).to_arrow(compat_level=pl.CompatLevel.oldest())
        return table.cast(self._schema)

    def _opened(self, key: Any, partition: _Partition) -> _File:
        open_files = [(k, p) for k, p in self._partitions.items() if p.file is not None]
        if len(open_files) >= _OPEN_FILES:
            self._end(*open_files[0])
        path = self.path_of(key, f"{self._prefix}{uuid.uuid4().hex}.parquet")
        with self.errors(path):
            stream = self.create(path)
            parquet = pq.ParquetWriter(
                stream, self._schema, compression="zstd", store_schema=False, version="2.6"
            )
        partition.file = _File(path, stream, parquet, Statistics(self._columns))
        return partition.file

    def _end(self, key: Any, partition: _Partition) -> None:
        file, partition.file = partition.file, None
        if file is None:
            return
        with self.errors(file.path):
            file.parquet.close()
            num_bytes = file.stream.tell()
            file.stream.close()
            metadata = file.parquet.writer.metadata if hasattr(file.parquet.writer, "metadata") else None  # fmt: skip
        self._ended.append(
            self.described(file.path, key, num_bytes, file.rows, file.statistics, metadata)
        )

    def finish(self) -> list[DataFile]:
        for key, partition in self._partitions.items():
            self._write_group(key, partition)
            self._end(key, partition)
        ended, self._ended, self._partitions = self._ended, [], {}
        return ended

    def discard(self) -> None:
        for partition in self._partitions.values():
            if partition.file is not None:
                try:
                    with self.errors(partition.file.path):
                        partition.file.parquet.close()
                        partition.file.stream.close()
                except DataFlareError:  # what could not be ended is not there
                    continue
                finally:
                    self.delete(partition.file.path)
        for each in self._ended:
            self.delete(each.path)
        self._partitions, self._ended = {}, []


def frames_of(
    opened: Any, columns: list[str], skip: int, rows_max: int = GROUP_ROWS
) -> Iterable[pa.Table]:
    """The rows of an open Parquet file behind the first `skip`, by row group. Columns that it lacks are left
    out; without any column, tables of the right length."""
    file = pq.ParquetFile(opened)
    known = set(file.schema_arrow.names)
    wanted = [name for name in columns if name in known]
    for number in range(file.num_row_groups):
        rows = file.metadata.row_group(number).num_rows
        if skip >= rows:
            skip -= rows
            continue
        for batch in file.iter_batches(rows_max, row_groups=[number], columns=wanted):
            if skip >= batch.num_rows:
                skip -= batch.num_rows
                continue
            part = batch.slice(skip)
            skip = 0
            yield pa.Table.from_batches([part])
