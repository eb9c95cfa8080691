"""Options that the sources and destinations of SQL databases have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dataflare.model.units import Duration, parse_duration
from dataflare.sdk.delete_max import DeleteMax


def _keep_text(value: Any) -> Any:
    """Keep a query as SourceText, because its template and variables are needed later."""
    if value is not None and not isinstance(value, str):
        raise ValueError("expected SQL text")
    return value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _lag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a duration such as 5m, or a number for a numeric column")
    return parse_duration(value) if isinstance(value, str) else value


def _span(value: Any) -> Any:
    if value in ("month", "year"):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("expected a duration such as 1d, or month, or year")
    length = float(parse_duration(value) if isinstance(value, str) else value)
    if length <= 0:
        raise ValueError("expected a duration above zero")
    return length


Every = Annotated[float | str, BeforeValidator(_span, json_schema_input_type=str | float)]
Query = Annotated[Any, BeforeValidator(_keep_text, json_schema_input_type=str)]
Names = Annotated[list[str], BeforeValidator(_listed, json_schema_input_type=str | list[str])]
Lag = Annotated[float, BeforeValidator(_lag, json_schema_input_type=str | float)]


class Incremental(BaseModel):
    """Read only rows that are new since the last run."""

    model_config = ConfigDict(extra="forbid")

    column: str = Field(
        description="the column that grows: an update time, a number, or text whose bytes grow; rows "
        "where it is NULL are read by the first run only, and counted in every run"
    )
    initial_value: Any = Field(None, description="the first run starts here; included")
    lag: Lag = Field(
        0.0,
        ge=0,
        description="how far back to read again, for rows that arrived late: 5m, or a number",
    )
    key: Names = Field(
        default_factory=list,
        description="the columns that distinguish rows with the same cursor value; by default "
        "the primary key, else all columns",
    )


class Cuts(BaseModel):
    """How a full read is divided into parts that are read and resumed separately: the options of
    all databases."""

    model_config = ConfigDict(extra="forbid")

    by: str
    column: str | None = Field(None, description="by default the first column of the key")
    splits: int | None = Field(None, ge=1, le=10_000, description="how many parts")
    boundaries: list[Any] | None = Field(
        None, min_length=1, description="the starts of parts: n values make n + 1 parts"
    )
    every: Every | None = Field(
        None, description="the span of a part, for by: time: a duration, month or year (in UTC)"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        options = [n for n in ("splits", "boundaries", "every") if getattr(self, n) is not None]
        if len(options) > 1:
            raise ValueError(f"set only one of {' and '.join(repr(n) for n in options)}")
        if self.every is not None and self.by != "time":
            raise ValueError("'every' needs by: time")
        if self.boundaries is not None and self.by in ("hash", "ctid"):
            raise ValueError(f"by: {self.by} takes 'splits', not 'boundaries'")
        if self.by == "time" and self.column is None:
            raise ValueError("by: time needs 'column'")
        return self

    def label(self, default: str) -> str:
        """The basis of the parts, for the user. default: the text if no column is named."""
        name = self.column or default
        match self.by, self.every:
            case "time", None:
                return f"time of {name}"
            case "time", str(span):
                return f"{span} of {name}"
            case "time", float(length):
                units = {3_600.0: "hour", 86_400.0: "day", 604_800.0: "week"}
                return f"{units.get(length, f'{length:g} s')} of {name}"
        return "blocks (ctid)" if self.by == "ctid" else f"{self.by} of {name}"


class Sharding(Cuts):
    """How a full read is divided into parts that are read and resumed separately."""

    by: Literal["range", "hash", "time"] = Field(
        "range",
        description="range: by values of a column; hash: by a hash of it; time: by spans of a time "
        "column",
    )


class FileSharding(Sharding):
    """How a full read of a table in a database file is divided into parts."""

    column: str | None = Field(None, description="by default the table's rowid")

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if self.splits is None and self.boundaries is None and self.every is None:
            raise ValueError("set the number of 'splits'")
        if self.boundaries is not None and self.column is None:
            raise ValueError("'boundaries' needs 'column'")
        return self


class ReadOptions(BaseModel):
    """Options of a source that reads a table or the result of a query."""

    model_config = ConfigDict(extra="forbid")

    table: str | None = Field(None, min_length=1, description="the table or view to read")
    tables: Names | None = Field(
        None,
        min_length=1,
        description="many tables, each a stream: names, and patterns with * and ?, of the table in any schema or of "
        "schema.table; those that begin with ! are taken away",
    )
    per_table: dict[str, dict[str, Any]] | None = Field(
        None, description="with 'tables': options of single tables, by the name of the stream"
    )
    query: Query | None = Field(
        None, description="a SELECT to read instead of a table; variables in it are bound values"
    )
    columns: Names | None = Field(None, min_length=1, description="read only these, in this order")
    incremental: Incremental | None = Field(
        None, description="read only what is new since the last run"
    )
    batch_size: int | None = Field(None, ge=1, description="the most rows in a batch")

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if [self.table, self.tables, self.query].count(None) != 2:
            raise ValueError("set one of 'table', 'tables' and 'query'")
        if self.per_table is not None and self.tables is None:
            raise ValueError("'per_table' needs 'tables'")
        return self


class ServerOptions(BaseModel):
    """How to connect to a server; the same for sources and destinations."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    connection_string: str = Field(min_length=1, repr=False)
    connect_timeout: Duration = Field(10.0, description="how long to wait for the server's answer")
    statement_timeout: Duration | None = Field(
        None,
        description="the longest the server may be silent while a statement runs; by default as long "
        "as it takes",
    )


class ServerReadOptions(ReadOptions):
    """Options of a source that reads a table or the result of a query from a server."""

    sharding: Cuts | None = None

    @model_validator(mode="after")
    def _one_part(self) -> Self:
        if self.incremental is not None and self.sharding is not None:
            raise ValueError("an incremental read is one ordered part: leave 'sharding' out")
        return self


class FileOptions(BaseModel):
    """Options of a source or a destination of a database file."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="the database file")
    busy_timeout: Duration = Field(5.0, description="how long to wait for a locked database")


class FileReadOptions(ReadOptions, FileOptions):
    """Options of a source that reads a table or the result of a query from a database file."""

    sharding: FileSharding | None = Field(
        None,
        description="how a full read is divided into parts; by default a large table has eight",
    )

    @model_validator(mode="after")
    def _full(self) -> Self:
        if self.sharding is not None and (self.query is not None or self.incremental is not None):
            raise ValueError("'sharding' is for a full read of a table")
        return self


class SoftDeletes(BaseModel):
    """Of a destination that may keep the rows that are deleted. A subclass has a `mode`."""

    deleted_at: str | None = Field(
        None,
        min_length=1,
        description="with mode mirror: rows that are deleted stay, and this column has the time of it; NULL in those that "
        "are there",
    )

    @model_validator(mode="after")
    def _of_a_mirror(self) -> Self:
        if self.deleted_at is not None and getattr(self, "mode", None) != "mirror":
            raise ValueError("'deleted_at' needs mode 'mirror'")
        return self


class WriteOptions(SoftDeletes):
    """Options of a destination that writes a table, whatever names it."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["append", "overwrite", "upsert", "mirror", "history"] = Field(
        "append",
        description="append adds rows; overwrite swaps in the new rows at the end; upsert keeps the "
        "last row of each key; mirror also deletes rows that are not in the source any more, at "
        "the end of a run that read all of it and in which no row failed; history keeps the versions "
        "of a row, with valid_from, valid_to and is_current: each of them with sequence, and without it the last "
        "of those that are read at one time",
    )
    key: Names = Field(default_factory=list, description="the columns that identify a row")
    sequence: str | None = Field(
        None,
        description="apply a row only if this column is greater than in the stored row; with mode history "
        "the time from which a row is so",
    )
    batch_size: int | None = Field(
        None, ge=1, description="the most rows to write with one statement"
    )
    delete_max: DeleteMax = Field(
        0.2,
        description="with mode mirror: the most rows that a run may delete because its source "
        "does not have them any more, as a share of the table (20%) or a count; if there are "
        "more, that is an error and no row is deleted",
    )
    create_table: bool = Field(
        True,
        description="create a missing table, and add columns that the rows have and the "
        "table has not",
    )
    changelog: Literal["columns"] | None = Field(
        None, description="'columns' appends changes as rows, with their kind in the column _op"
    )
    retry_policy: dict[str, Any] | None = Field(
        None,
        description="how to repeat calls, also writes, after a temporary error; as in "
        "error_handling",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        keyed = self.mode in ("upsert", "mirror")
        if keyed and not self.key:
            raise ValueError(f"mode '{self.mode}' needs 'key': the columns that identify a row")
        if "delete_max" in self.model_fields_set and self.mode != "mirror":
            raise ValueError("'delete_max' needs mode 'mirror'")
        if self.sequence is not None and not keyed:
            raise ValueError("'sequence' needs mode 'upsert' or 'mirror'")
        if self.changelog is not None and self.mode != "append":
            raise ValueError("'changelog: columns' needs mode 'append'")
        if len(set(self.key)) != len(self.key):
            raise ValueError("'key' names a column twice")
        return self


class _Named(BaseModel):
    table: str = Field(min_length=1, description="the table to write")


class TableOptions(WriteOptions, _Named):
    """Options of a destination that writes a table of a database."""


class FileTableOptions(TableOptions, FileOptions):
    """Options of a destination that writes a table of a database file."""

    path: str = Field(description="the database file; created if it does not exist")


class SqlOptions(TableOptions):
    """Options of a destination that runs a user's statements."""

    before_sql: Names = Field(
        default_factory=list,
        description="one or more statements that run in one transaction when a run begins, "
        "before any row is written; not when a run is resumed, but again if it was killed "
        "before its first checkpoint",
    )
    after_sql: Names = Field(
        default_factory=list,
        description="one or more statements that run after the last rows of a run are committed, "
        "each in its own transaction; they run again if the run was killed before it was "
        "recorded as finished, so they must be repeatable",
    )


class FileSqlOptions(SqlOptions, FileTableOptions):
    """Options of a destination that writes a table of a database file with SQL."""
