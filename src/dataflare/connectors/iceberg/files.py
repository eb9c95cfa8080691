"""Data files of an Iceberg table: written with their statistics, and read as the table's columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl
import pyarrow as pa
from pyiceberg.conversions import from_bytes
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
    schema_to_pyarrow,
)
from pyiceberg.manifest import DataFile as IcebergFile
from pyiceberg.manifest import DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionFieldValue, PartitionKey
from pyiceberg.schema import Schema as IcebergSchema
from pyiceberg.table import FileScanTask, Table
from pyiceberg.typedef import Record
from pyiceberg.types import IntegerType, LongType, StringType

from dataflare.connectors.iceberg.errors import iceberg_errors
from dataflare.errors import DataFlareError
from dataflare.model.types import Schema
from dataflare.sdk.lakes.parquet_files import ParquetFiles, Statistics
from dataflare.sdk.lakes.table import Bounds, DataFile

_PARTITION = "__dataflare_partition_"


class IcebergFiles(ParquetFiles):
    """Files that a table gets."""

    def __init__(self, prefix: str, table: Table, schema: Schema, label: str) -> None:
        self._arrow_schema = schema_to_pyarrow(table.schema(), include_field_ids=True)
        super().__init__(prefix, self._arrow_schema, schema.names)
        self._table, self._label = table, label
        self._spec = table.spec()
        self._locations = table.location_provider()

    def parted(self, frame: pl.DataFrame) -> Iterable[tuple[Any, pl.DataFrame]]:
        fields = self._spec.fields
        if not fields:
            return [((), frame)]
        schema, names = self._table.schema(), []
        with self.errors(""):
            columns: dict[str, pa.Array] = {}
            for number, field in enumerate(fields):
                name = schema.find_column_name(field.source_id) or ""
                source = schema.find_field(field.source_id)
                values = self._arrow(frame.select(name), self._arrow_schema.field(name))
                transform = field.transform.pyarrow_transform(source.field_type)
                columns[f"{_PARTITION}{number}"] = transform(values)
                names.append(f"{_PARTITION}{number}")
            keys = pl.DataFrame(pl.from_arrow(pa.table(columns)))
        parts = frame.hstack(keys).partition_by(names, as_dict=True, maintain_order=True)
        return [(key, part.drop(names)) for key, part in parts.items()]

    def _arrow(self, frame: pl.DataFrame, field: pa.Field | None = None) -> Any:
        """A table with the schema of the files; with a field, its values alone."""
        if field is None:
            with self.errors(""):
                return super()._arrow(frame)
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        return table.column(0).combine_chunks().cast(field.type)

    def _key(self, partition: Any) -> PartitionKey | None:
        fields = self._spec.fields
        if not fields:
            return None
        pairs = zip(fields, partition, strict=True)
        values = [PartitionFieldValue(field, value) for field, value in pairs]
        return PartitionKey(values, self._spec, self._table.schema())

    def path_of(self, partition: Any, name: str) -> str:
        return self._locations.new_data_location(name, self._key(partition))

    def create(self, path: str) -> Any:
        return self._table.io.new_output(path).create(overwrite=True)

    def errors(self, path: str) -> Any:
        return iceberg_errors(self._label, "writing")

    def delete(self, path: str) -> None:
        try:
            with self.errors(path):
                self._table.io.delete(path)
        except DataFlareError:  # a file that stays is an orphan, as maintenance removes them
            return

    def described(
        self, path: str, partition: Any, num_bytes: int, rows: int, statistics: Statistics, metadata: Any
    ) -> DataFile:  # fmt: skip
        key = self._key(partition)
        record = key.partition if key is not None else Record()
        handle = _handle(self._table, path, record, num_bytes, metadata)
        return DataFile(path, rows, _task(handle), num_bytes, statistics.bounds)


def _handle(table: Table, path: str, partition: Record, num_bytes: int, metadata: Any) -> Any:
    """pyiceberg's description of a file. metadata: its footer."""
    schema = table.schema()
    found = data_file_statistics_from_parquet_metadata(
        metadata,
        compute_statistics_plan(schema, table.properties),
        parquet_path_to_id_mapping(schema),
    )
    made = IcebergFile.from_args(
        content=DataFileContent.DATA,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=partition,
        file_size_in_bytes=num_bytes,
        sort_order_id=None,
        equality_ids=None,
        key_metadata=None,
        **found.to_serialized_dict(),
    )
    made.spec_id = table.metadata.default_spec_id
    return made


def _task(file: Any, deletes: Any = ()) -> FileScanTask:
    return FileScanTask(file, delete_files=set(deletes), residual=AlwaysTrue())


def file_of_task(task: FileScanTask, schema: IcebergSchema) -> DataFile:
    """A file of a version. Its number of rows is not known if rows of it were deleted."""
    file = task.file
    rows = None if task.delete_files else file.record_count
    return DataFile(file.file_path, rows, task, file.file_size_in_bytes, _bounds(file, schema))


def file_of_entry(file: Any, schema: IcebergSchema) -> DataFile:
    return file_of_task(_task(file), schema)


def _bounds(file: Any, schema: IcebergSchema) -> Mapping[str, Bounds]:
    bounds: dict[str, Bounds] = {}
    lows, highs = file.lower_bounds or {}, file.upper_bounds or {}
    for field in schema.fields:
        if not isinstance(field.field_type, IntegerType | LongType | StringType):
            continue
        low, high = lows.get(field.field_id), highs.get(field.field_id)
        if low is None or high is None:
            continue
        if isinstance(field.field_type, StringType):
            bounds[field.name] = Bounds(
                *(from_bytes(field.field_type, each) for each in (low, high))
            )
        else:
            # A column that was widened has bounds of the narrower type in older files.
            bounds[field.name] = Bounds(
                *(int.from_bytes(each, "little", signed=True) for each in (low, high))
            )
    return bounds


def file_to_json(file: DataFile) -> list[Any]:
    """A file that is not in the table yet, as JSON. What its footer says is read from there again."""
    partition = file.handle.file.partition
    values = [partition[number] for number in range(len(partition))]
    return [file.path, file.rows, file.num_bytes, values]


def file_from_json(table: Table, value: Any) -> DataFile:
    """Raises FileNotFoundError if the file is gone."""
    import pyarrow.parquet as pq

    path, rows, num_bytes, partition = value
    with table.io.new_input(path).open() as opened:
        metadata = pq.read_metadata(opened)
    handle = _handle(table, path, Record(*partition), num_bytes, metadata)
    return DataFile(path, rows, _task(handle), num_bytes)
