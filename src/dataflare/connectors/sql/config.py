"""The config that sources and destinations of SQL databases have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dataflare.connectors.delete_max import DeleteMax as DeleteMax
from dataflare.model.units import Duration, parse_duration


def _keep_text(value: Any) -> Any:
    """A query stays the SourceText it came as: its template and variables are still needed."""
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
    """Read only what is new since the last run."""

    model_config = ConfigDict(extra="forbid")

    column: str = Field(
        description="the column that grows: an update time, a number, or text whose bytes grow; rows "
        "where it is NULL are read by the first run only, and counted in every run"
    )
    initial_value: Any = Field(None, description="the first run starts here; included")
    lag: Lag = Field(
        0.0,
        ge=0,
        description="how far back to look again for rows that arrived late: 5m, or a number",
    )
    key: Names = Field(
        default_factory=list,
        description="what tells two rows with one cursor value apart; by default the primary key, "
        "else the whole row",
    )


class Cuts(BaseModel):
    """How a full read is cut into parts that are read, and resumed, on their own: what each
    database knows of it."""

    model_config = ConfigDict(extra="forbid")

    by: str
    column: str | None = Field(None, description="by default the first column of the key")
    splits: int | None = Field(None, ge=1, le=10_000, description="how many parts")
    boundaries: list[Any] | None = Field(
        None, min_length=1, description="where parts begin: n values make n + 1 parts"
    )
    every: Every | None = Field(
        None, description="the span of a part, for by: time: a duration, month or year (in UTC)"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        given = [n for n in ("splits", "boundaries", "every") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {' and '.join(repr(n) for n in given)}")
        if self.every is not None and self.by != "time":
            raise ValueError("'every' needs by: time")
        if self.boundaries is not None and self.by in ("hash", "ctid"):
            raise ValueError(f"by: {self.by} takes 'splits', not 'boundaries'")
        if self.by == "time" and self.column is None:
            raise ValueError("by: time needs 'column'")
        return self

    def shown(self, default: str) -> str:
        """What it cuts by, for people. default: what is cut when no column is named."""
        name = self.column or default
        match self.by, self.every:
            case "time", None:
                return f"time of {name}"
            case "time", str(span):
                return f"{span} of {name}"
            case "time", float(length):
                named = {3_600.0: "hour", 86_400.0: "day", 604_800.0: "week"}
                return f"{named.get(length, f'{length:g} s')} of {name}"
        return "blocks (ctid)" if self.by == "ctid" else f"{self.by} of {name}"


class FileSharding(Cuts):
    """How a full read of a table of a database file is cut into parts."""

    by: Literal["range", "hash", "time"] = Field(
        "range",
        description="range: by values of a column; hash: by a hash of it; time: by spans of a time "
        "column",
    )
    column: str | None = Field(None, description="by default the table's rowid")

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if self.splits is None and self.boundaries is None and self.every is None:
            raise ValueError("say how many 'splits'")
        if self.boundaries is not None and self.column is None:
            raise ValueError("'boundaries' needs 'column'")
        return self


class TableSourceConfig(BaseModel):
    """Of a source that reads a table or the result of a query from a database file."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="the database file")
    table: str | None = Field(None, min_length=1, description="the table or view to read")
    query: Query | None = Field(
        None, description="a SELECT to read instead of a table; variables in it are bound values"
    )
    columns: Names | None = Field(None, min_length=1, description="read only these, in this order")
    incremental: Incremental | None = Field(
        None, description="read only what is new since the last run"
    )
    sharding: FileSharding | None = Field(
        None, description="how a full read is cut into parts; by default a great table has eight"
    )
    busy_timeout: Duration = Field(5.0, description="how long to wait for a locked database")
    batch_size: int | None = Field(None, ge=1, description="at most so many rows in a batch")

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.table is None) == (self.query is None):
            raise ValueError("give 'table' or 'query', exactly one of them")
        if self.sharding is not None and (self.query is not None or self.incremental is not None):
            raise ValueError("'sharding' is for a full read of a table")
        return self


class TableDestinationConfig(BaseModel):
    """Of a destination that writes a table of a database file."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="the database file; made when it is missing")
    table: str = Field(min_length=1, description="the table to write")
    mode: Literal["append", "overwrite", "upsert", "mirror"] = Field(
        "append",
        description="append adds rows; overwrite swaps in the new rows at the end; upsert keeps the "
        "last row of each key; mirror also deletes what is gone from the source, at the end of a run "
        "that read it whole",
    )
    key: Names = Field(default_factory=list, description="the columns that identify a row")
    sequence: str | None = Field(
        None, description="apply a row only if this column is greater than in the stored row"
    )
    batch_size: int | None = Field(
        None, ge=1, description="write at most so many rows with one statement"
    )
    before_sql: Names = Field(
        default_factory=list,
        description="a statement, or several, run when a run begins, before any row is written, in one "
        "transaction; not when a run is resumed, but again when it was killed before its first checkpoint",
    )
    after_sql: Names = Field(
        default_factory=list,
        description="a statement, or several, run after the last rows of a run are committed, each on its own; "
        "again when the run was killed before it was recorded as finished, so write them to be repeatable",
    )
    delete_max: DeleteMax = Field(
        0.2,
        description="with mode mirror: how many rows a run may delete because its source does not have them "
        "any more, as a share of the table (20%) or a count; more are an error, and none is deleted",
    )
    create_table: bool = Field(
        True, description="make a missing table, and add columns that the rows have and it has not"
    )
    changelog: Literal["columns"] | None = Field(
        None, description="'columns' appends changes as rows, with their kind in the column _op"
    )
    busy_timeout: Duration = Field(5.0, description="how long to wait for a locked database")
    retry_policy: dict[str, Any] | None = Field(
        None,
        description="how calls that fail for a moment, writes too, are made again; as in error_handling",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        keyed = self.mode in ("upsert", "mirror")
        if keyed and not self.key:
            raise ValueError(f"mode '{self.mode}' needs 'key': the columns that tell rows apart")
        if "delete_max" in self.model_fields_set and self.mode != "mirror":
            raise ValueError("'delete_max' needs mode 'mirror'")
        if self.sequence is not None and not keyed:
            raise ValueError("'sequence' needs mode 'upsert' or 'mirror'")
        if self.changelog is not None and self.mode != "append":
            raise ValueError("'changelog: columns' needs mode 'append'")
        if len(set(self.key)) != len(self.key):
            raise ValueError("'key' names a column twice")
        return self
