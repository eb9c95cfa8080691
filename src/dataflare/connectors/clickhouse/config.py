"""The options of a ClickHouse source or destination."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from dataflare.model.units import Duration
from dataflare.sdk.sql.config import Names, ServerOptions, ServerReadOptions, Sharding, SoftDeletes


class ClickhouseConfig(ServerOptions):
    """How to connect to the server; the same for sources and destinations."""

    connection_string: str = Field(
        min_length=1,
        repr=False,
        description="clickhouse://user:password@host:8123/database, the port of the HTTP interface; after a "
        "question mark: secure=true (TLS), ca, cert, key, verify=false",
    )
    connect_timeout: Duration = Field(10.0, description="how long to wait for a connection")


class KeySharding(Sharding):
    """How a full read is divided into parts that are read and resumed separately."""

    column: str | None = Field(None, description="by default the first part of the sorting key")


class ClickhouseSourceConfig(ServerReadOptions, ClickhouseConfig):
    table: str | None = Field(
        None, min_length=1, description="the table or view to read: name, or database.name"
    )
    final: bool = Field(
        False,
        description="read with FINAL: rows that the table's engine replaces or collapses are not given, "
        "also if it has not merged them yet",
    )
    sharding: KeySharding | None = Field(
        None,
        description="divide the read into parts by other rules than ranges of the sorting key; by default a "
        "large table whose key begins with a whole number or a time is divided",
    )

    @model_validator(mode="after")
    def _divided(self) -> Self:
        for name, is_set in (("sharding", self.sharding is not None), ("final", self.final)):
            if is_set and self.query is not None:
                raise ValueError(f"'{name}' needs 'table'")
        return self


class ClickhouseDestinationConfig(SoftDeletes, ClickhouseConfig):
    table: str = Field(min_length=1, description="the table to write: name, or database.name")
    mode: Literal["append", "overwrite", "upsert", "mirror"] = Field(
        "append",
        description="append adds rows; overwrite swaps in the new rows at the end; upsert writes to a "
        "ReplacingMergeTree, which keeps the last row of each key; mirror also marks the rows that a changelog deletes",
    )
    key: Names = Field(default_factory=list, description="the columns that identify a row")
    sequence: str | None = Field(
        None,
        description="with mode upsert: of the rows with one key, keep the one with the greatest value of this "
        "column, not the last one; the version column of the ReplacingMergeTree",
    )
    order_by: Names | None = Field(
        None,
        description="the columns by which a new table is sorted; by default the key, else the order in which "
        "rows arrive",
    )
    partition_by: str | None = Field(
        None, min_length=1, description="the PARTITION BY of a new table: toYYYYMM(created_at)"
    )
    batch_size: int = Field(
        100_000, ge=1, description="about how many rows are sent with one INSERT"
    )
    create_table: bool = Field(
        True,
        description="create a missing table, and add columns that the rows have and the table has not",
    )
    before_sql: Names = Field(
        default_factory=list,
        description="one or more statements that run one after another when a run begins, before any row is written; not when "
        "a run is resumed, but again if it was killed before its first checkpoint, so they must be repeatable",
    )
    after_sql: Names = Field(
        default_factory=list,
        description="one or more statements that run one after another when the last rows of a run are there; they run again if "
        "the run was killed before it was recorded as finished, so they must be repeatable",
    )
    changelog: Literal["columns"] | None = Field(
        None, description="'columns' appends changes as rows, with their kind in the column _op"
    )
    retry_policy: dict[str, Any] | None = Field(
        None,
        description="how to repeat calls, also writes, after a temporary error; as in error_handling",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        keyed = self.mode in ("upsert", "mirror")
        if keyed and not self.key:
            raise ValueError(f"mode '{self.mode}' needs 'key': the columns that identify a row")
        if self.sequence is not None and self.mode != "upsert":
            raise ValueError("'sequence' needs mode 'upsert'")
        if self.changelog is not None and self.mode != "append":
            raise ValueError("'changelog: columns' needs mode 'append'")
        if self.order_by is not None and keyed:
            raise ValueError(f"mode '{self.mode}' sorts a new table by 'key': leave 'order_by' out")
        if len(set(self.key)) != len(self.key):
            raise ValueError("'key' names a column twice")
        return self
