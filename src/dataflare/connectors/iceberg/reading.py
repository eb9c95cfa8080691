"""Rows of a data file of an Iceberg table, as the table's columns.

Columns are found by their ids. pyiceberg 0.12 reads a NULL in a list of structs as an empty list, so files are
read here; only files that need more than ids are read with it, and then such columns are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg import types as iceberg
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan, _read_all_delete_files, pyarrow_to_schema
from pyiceberg.schema import Schema as IcebergSchema
from pyiceberg.table import Table
from pyiceberg.transforms import IdentityTransform

from dataflare.connectors.iceberg.errors import iceberg_errors
from dataflare.errors import SystemError_
from dataflare.model.types import Schema
from dataflare.sdk.lakes.parquet_files import GROUP_ROWS
from dataflare.sdk.lakes.table import DataFile


def read_frames(
    table: Table, file: DataFile, schema: Schema, current: IcebergSchema, columns: Sequence[str],
    skip: int, label: str,
) -> Iterator[pl.DataFrame]:  # fmt: skip
    """The rows of a file behind the first `skip`, with these columns of the table. current: its schema."""
    with iceberg_errors(label, "reading"):
        fields = {f.name: f for f in current.fields}
        task = file.handle
        deleted = _deleted(table, task)
        with table.io.new_input(task.file.file_path).open() as opened:
            parquet = pq.ParquetFile(opened)
            names = _names_in_file(table, task, parquet, [fields[n] for n in columns])
            if names is None:
                arrow = _by_the_library(table, task, current, columns, label)
                given: Mapping[str, str | None] = {name: name for name in columns}
            else:
                arrow, given = _kept(parquet, names, deleted), names
            for part in arrow:
                if skip >= part.num_rows:
                    skip -= part.num_rows
                    continue
                rows = part.slice(skip)
                skip = 0
                yield _frame(rows, given, schema, fields, columns)


def _deleted(table: Table, task: Any) -> pl.Series | None:
    """The places of rows that delete files remove."""
    if not task.delete_files:
        return None
    found = _read_all_delete_files(table.io, [task]).get(task.file.file_path, [])
    places = [pl.Series(pl.from_arrow(each)) for each in found]
    return pl.concat(places).cast(pl.Int64).unique() if places else None


def _kept(
    parquet: Any, names: Mapping[str, str | None], deleted: pl.Series | None
) -> Iterator[pa.Table]:
    wanted = [name for name in names.values() if name is not None]
    place = 0
    for group in range(parquet.num_row_groups):
        for batch in parquet.iter_batches(GROUP_ROWS, row_groups=[group], columns=wanted):
            rows = pa.Table.from_batches([batch])
            if deleted is not None:
                places = pl.int_range(place, place + batch.num_rows, eager=True)
                rows = rows.filter((~places.is_in(deleted.implode())).to_arrow())
            place += batch.num_rows
            yield rows


def _names_in_file(
    table: Table, task: Any, parquet: Any, fields: Sequence[Any]
) -> dict[str, str | None] | None:
    """The names of columns in a file; None for one that it lacks, which is NULL. No names if ids do not
    say which columns these are."""
    arrow = parquet.schema_arrow
    try:
        found = pyarrow_to_schema(arrow)
    except ValueError:  # a file without ids
        return None
    by_id = {field.field_id: field for field in found.fields}
    spec = table.specs()[task.file.spec_id]
    in_partition = {
        each.source_id for each in spec.fields if isinstance(each.transform, IdentityTransform)
    }
    names: dict[str, str | None] = {}
    for field in fields:
        in_file = by_id.get(field.field_id)
        if in_file is None:
            if (
                field.field_id in in_partition
                or getattr(field, "initial_default", None) is not None
            ):
                return None
            names[field.name] = None
        elif not _alike(in_file.field_type, field.field_type):
            return None
        else:
            names[field.name] = in_file.name
    return names


def _alike(found: Any, wanted: Any) -> bool:
    """Whether nested types have the same names and ids. Other types differ only by a promotion."""
    match found, wanted:
        case iceberg.StructType(), iceberg.StructType():
            return len(found.fields) == len(wanted.fields) and all(
                a.name == b.name and a.field_id == b.field_id and _alike(a.field_type, b.field_type)
                for a, b in zip(found.fields, wanted.fields, strict=True)
            )
        case iceberg.ListType(), iceberg.ListType():
            return found.element_id == wanted.element_id and _alike(
                found.element_type, wanted.element_type
            )
        case iceberg.MapType(), iceberg.MapType():
            return _alike(found.key_type, wanted.key_type) and _alike(
                found.value_type, wanted.value_type
            )
    return not any(
        isinstance(each, iceberg.StructType | iceberg.ListType | iceberg.MapType)
        for each in (found, wanted)
    )


def _by_the_library(
    table: Table, task: Any, current: IcebergSchema, columns: Sequence[str], label: str
) -> Iterator[pa.Table]:
    for name in columns:
        if _has_list_of_nested(current.find_field(name).field_type):
            raise SystemError_(
                f"{label}: the column '{name}' is a list of structs or lists, and the file {task.file.file_path} does "
                "not have the ids or the form of the table's columns now",
                code="E0604",
                help="rewrite the old files of the table, or leave the column out with 'columns'",
            )
    scan = ArrowScan(table.metadata, table.io, current.select(*columns), AlwaysTrue())
    deletes = _read_all_delete_files(table.io, [task])
    # `to_record_batches` would hold the whole file in memory.
    for batch in scan._record_batches_from_scan_tasks_and_deletes([task], deletes):
        yield from (
            pa.Table.from_batches([batch.slice(at, GROUP_ROWS)])
            for at in range(0, batch.num_rows, GROUP_ROWS)
        )


def _has_list_of_nested(type_: Any) -> bool:
    match type_:
        case iceberg.ListType():
            return not isinstance(type_.element_type, iceberg.PrimitiveType)
        case iceberg.StructType():
            return any(_has_list_of_nested(f.field_type) for f in type_.fields)
        case iceberg.MapType():
            return True
    return False


def _frame(
    rows: pa.Table, names: Mapping[str, str | None], schema: Schema, fields: Mapping[str, Any],
    columns: Sequence[str],
) -> pl.DataFrame:  # fmt: skip
    height = rows.num_rows
    if not columns:
        return pl.DataFrame(height=height)
    given = pl.DataFrame(pl.from_arrow(rows)) if rows.num_columns else pl.DataFrame(height=height)
    series: list[pl.Series] = []
    for name in columns:
        dtype, in_file = schema[name].to_polars(), names[name]
        if in_file is None:
            series.append(pl.Series(name, [None], dtype=dtype).new_from_index(0, height))
        elif isinstance(fields[name].field_type, iceberg.UUIDType):
            series.append(_uuid_text(given[in_file]).alias(name))
        else:
            values = given[in_file].alias(name)
            series.append(values if values.dtype == dtype else values.cast(dtype))
    return pl.DataFrame(series)


def _uuid_text(values: pl.Series) -> pl.Series:
    text = values.cast(pl.Binary).bin.encode("hex")
    parts = [text.str.slice(at, n) for at, n in ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined + "-" + part
    return joined
