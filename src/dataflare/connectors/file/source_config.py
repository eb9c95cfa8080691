"""The options of the `file` source."""

from __future__ import annotations

import codecs
from typing import Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from dataflare.connectors.file.events import EventOptions
from dataflare.formats.csv_find import DialectOptions
from dataflare.formats.excel_area import Area, BookOptions
from dataflare.model.units import parse_duration
from dataflare.sdk.many_tables import ManyTables
from dataflare.sdk.stores.options import StorageOptions

_FORMATS_OF: tuple[tuple[frozenset[str], tuple[str, ...]], ...] = (
    (
        frozenset(
            {"delimiter", "quote", "escape", "comment", "decimal", "thousands", "date_format"}
            | {"null_values"}
        ),
        ("csv",),
    ),
    (frozenset({"has_header", "header_row", "skip_rows"}), ("csv", "excel")),
    (frozenset({"sheet", "range", "header_rows", "sheet_column"}), ("excel",)),
    (frozenset({"encoding"}), ("csv", "ndjson", "json")),
)
"""By option: the formats that have it."""


class FileSourceConfig(ManyTables):
    """Options of a `file` source."""

    model_config = ConfigDict(extra="forbid")

    path: str | list[str] = Field(
        description="A file, a folder, a glob, or a list of these; relative to the workflow's folder, or a URL "
        "(s3://bucket/orders/*.csv). "
        "A folder or glob leaves out names that begin with `.` or `_`, unless the glob begins so. With 'tables' what is read "
        "of it is many streams: files whose names differ in numbers alone are one."
    )
    format: Literal["auto", "csv", "ndjson", "json", "parquet", "arrow", "excel"] = Field(
        "auto", description="The format of the files; auto: by their names."
    )
    compression: Literal["auto", "none", "gzip", "zstd"] = Field(
        "auto",
        description="The compression of text files; auto: by their first bytes, not by their names.",
    )
    delimiter: str | None = Field(
        "auto",
        description="CSV: the character between fields; auto finds a comma, semicolon, tab or bar.",
    )
    has_header: bool = Field(
        True, description="CSV, Excel: whether the first line or row names the columns."
    )
    null_values: list[str] = Field(
        default_factory=list, description="CSV: texts that mean NULL, beside an empty cell."
    )
    quote: str | None = Field(
        "auto", description="CSV: the character around fields; auto finds it, null: none."
    )
    escape: str | None = Field(
        "auto",
        description="CSV: the character before a quote inside a quoted field; auto finds a backslash, "
        "null: none (a quote is then written twice).",
    )
    comment: str | None = Field(
        "auto",
        description="CSV: the character at the start of a line that is not a row; auto finds # above the header, null is "
        "nothing.",
    )
    decimal: Literal["auto", ".", ","] = Field(
        "auto", description="CSV: the mark before the fraction of numbers; auto finds it."
    )
    thousands: str | None = Field(
        "auto",
        description="CSV: the mark between groups of three digits; auto finds it where numbers leave no "
        "doubt, null: none.",
    )
    date_format: str | None = Field(
        None,
        description="CSV: how dates or timestamps are written, such as %d.%m.%Y; columns whose texts all "
        "have it become dates or, with a time of day in it, timestamps.",
    )
    encoding: str = Field(
        "auto",
        description="How text files encode characters; auto is UTF-8, or UTF-16 by its first bytes, or "
        "for CSV cp1252 where it is not UTF-8 and looks like it, with a warning.",
    )
    columns: list[str] | None = Field(
        None, description="The columns to read, in this order; all when not given."
    )
    sheet: str | int | list[str | int] | None = Field(
        None,
        description="Excel: the sheet by name or number from 1, or a list of sheets, or `all` for all "
        "visible ones, one after the other as one table; the first when not given.",
    )
    range: str | None = Field(
        None,
        description="Excel: the cells to read, such as B3:F20; B3:F goes down to the last row, B:F "
        "has all rows.",
    )
    header_row: int | None = Field(
        None,
        ge=1,
        description="CSV, Excel: the line or row that names the columns, counted from 1; those above it "
        "are skipped. When not given, the first that is not a title.",
    )
    header_rows: int = Field(
        1,
        ge=1,
        description="Excel: how many rows the header has; the names below one another are joined by a "
        "blank, and a merged cell names all columns below it.",
    )
    skip_rows: int = Field(
        0,
        ge=0,
        description="CSV, Excel: the number of lines or rows to skip at the top, before the header.",
    )
    sheet_column: str | None = Field(
        None, description="Excel: a column to add that holds the name of each row's sheet."
    )
    schema_sample_rows: int = Field(
        20_000, ge=1, description="How many rows of a sample the types of text files are found on."
    )
    file_column: str | None = Field(
        None, description="A column to add that holds the path of each row's file."
    )
    new_only: bool | None = Field(
        None,
        description="Read only files that earlier runs of the workflow have not read. When not given: "
        "true if every destination that the rows reach appends them. A CSV or NDJSON file that has "
        "grown goes on where it ended.",
    )
    changed: Literal["error", "read_again", "ignore"] = Field(
        "error",
        description="With new_only: what to do with a file that was rewritten after it was read: end "
        "the run with an error, read the whole file again, or skip it.",
    )
    storage: StorageOptions | None = Field(
        None,
        description="For URLs: endpoint, region and credentials, where the environment does not have them.",
    )
    watch: bool = Field(
        False,
        description="Read without end: new files, and lines that are added to CSV and NDJSON files, also when "
        "these are rotated or truncated.",
    )
    watch_interval: float = Field(
        5.0, gt=0, description="With watch: how long to wait between two looks, as 5s."
    )
    events: EventOptions | None = Field(
        None,
        description="With watch, for s3://: new objects are told by the events of the bucket, which go to a queue of SQS, in place of a "
        "list of all objects at each look.",
    )
    settle: float = Field(
        5.0,
        ge=0,
        description="With watch: a file is read as a whole, or its last line without a line end is read, when it "
        "was left alone for this long, as 5s.",
    )

    @field_validator("watch_interval", "settle", mode="before")
    @classmethod
    def _duration(cls, value: object) -> object:
        return parse_duration(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _watch_options(self) -> FileSourceConfig:
        for name in ("watch_interval", "settle", "events"):
            if not self.watch and name in self.model_fields_set:
                raise ValueError(f"'{name}' is for watch: true")
        if self.watch and self.new_only is False:
            raise ValueError("new_only: false and watch: true contradict each other")
        if self.events is not None and not all(
            each.lower().startswith("s3://") for each in self.paths
        ):
            raise ValueError("'events' is for paths at s3://")
        return self

    @field_validator("path")
    @classmethod
    def _some_path(cls, value: str | list[str]) -> str | list[str]:
        if not value or (isinstance(value, list) and not all(value)):
            raise ValueError("is empty")
        return value

    @field_validator("null_values", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("delimiter", "quote", "escape", "comment", "thousands")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        if value not in (None, "auto") and (
            len(value) != 1 or not value.isascii() or value in "\r\n"
        ):
            raise ValueError("must be one ASCII character")
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        if value == "auto":
            return value
        try:
            codecs.lookup(value)
        except LookupError as error:
            raise ValueError(f"is not a known encoding: {value}") from error
        return value

    @field_validator("range")
    @classmethod
    def _known_range(cls, value: str | None) -> str | None:
        if value is not None:
            Area.parse(value)
        return value

    @model_validator(mode="after")
    def _changed_of_something(self) -> FileSourceConfig:
        if self.new_only is False and "changed" in self.model_fields_set:
            raise ValueError("'changed' has no effect with new_only: false")
        return self

    @model_validator(mode="after")
    def _one_header(self) -> FileSourceConfig:
        if self.header_row is not None and self.header_row <= self.skip_rows:
            raise ValueError(f"header_row {self.header_row} lies in the rows that skip_rows skips")
        return self

    @model_validator(mode="after")
    def _different_marks(self) -> FileSourceConfig:
        if self.decimal != "auto" and self.decimal == self.thousands:
            raise ValueError("decimal and thousands are the same mark")
        return self

    def unused_by(self, format_: str) -> list[str]:
        """The options in the workflow that files of the format do not have."""
        return sorted(
            name
            for names, formats in _FORMATS_OF
            if format_ not in formats
            for name in names & self.model_fields_set
        )

    @property
    def csv(self) -> DialectOptions:
        """The options for the dialect of CSV."""
        return DialectOptions(
            self.delimiter, self.quote, self.escape, self.comment, self.has_header
        )

    @property
    def book(self) -> BookOptions:
        """The options for workbooks."""
        return BookOptions(
            tuple(self.sheet) if isinstance(self.sheet, list) else self.sheet,
            Area.parse(self.range) if self.range is not None else Area(),
            self.skip_rows,
            self.has_header,
            self.header_row,
            self.header_rows,
        )

    @property
    def paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else self.path
