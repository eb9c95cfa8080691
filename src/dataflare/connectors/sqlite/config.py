"""The config of a source that reads an SQLite file."""

from __future__ import annotations

from pydantic import Field

from dataflare.sdk.sql.config import FileReadOptions
from dataflare.sdk.sql.text_values import TimeNumbers


class SqliteSourceConfig(FileReadOptions):
    """Of a source that reads a table or the result of a query from an SQLite file."""

    time_numbers: TimeNumbers | dict[str, TimeNumbers] | None = Field(
        None,
        description="the unit of numbers in columns of dates and timestamps: one for all columns, or one "
        "for each column by its name. s, ms, us and ns count from 1970-01-01 UTC; julian_day is what "
        "SQLite's julianday() gives, read to the millisecond. Without it a number in such a column is a "
        "row error, because its unit cannot be told from its value",
    )
