"""Rows of a lake's table that are deleted and stay: their files are written again, with the time in a column."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl

from dataflare.sdk.lakes.table import DataFile, FileWriter, LakeTable


def mark(
    table: LakeTable, files: Sequence[DataFile], column: str, writer: FileWriter
) -> list[DataFile]:
    """Write the files again that have rows without the time. Returns them: they leave the table."""
    left = [file for file in files if rows_there(table, file, column)]
    for file in left:
        for frame in table.read(file, table.schema.names):
            writer.add(marked(frame, column))
    return left


def marked(rows: pl.DataFrame, column: str) -> pl.DataFrame:
    """The rows with the time. Those that have one keep it."""
    now = pl.lit(datetime.now(UTC)).cast(rows.schema[column])
    return rows.with_columns(pl.coalesce(column, now))


def rows_there(table: LakeTable, file: DataFile, marks: str | None = None) -> int:
    """How many rows of a file are there. marks: the column with the time, if deleted rows stay."""
    if marks is None and file.rows is not None:
        return file.rows
    frames = table.read(file, [marks or table.schema.names[0]])
    return sum(each.height if marks is None else each[marks].null_count() for each in frames)
