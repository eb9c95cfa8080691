"""The options of a PostgreSQL source or destination."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dataflare.model.units import Duration
from dataflare.sdk.sql.config import Cuts, DeleteMax, Incremental, Names, Query


class PostgresConfig(BaseModel):
    """How to connect to the database; the same for sources and destinations."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    connection_string: str = Field(
        min_length=1,
        repr=False,
        description="postgresql://user:password@host:5432/database?sslmode=require, or the same as "
        "'host=... dbname=...'; missing parts are taken from PGHOST and similar variables, as "
        "with psql",
    )
    connect_timeout: Duration = Field(10.0, description="how long to wait for the server's answer")
    statement_timeout: Duration | None = Field(
        None, description="the longest one statement may run; by default as long as it takes"
    )


class Sharding(Cuts):
    """How a full read is divided into parts that are read and resumed separately."""

    by: Literal["range", "hash", "time", "ctid"] = Field(
        description="range: by values of a column; hash: by a hash of it; time: by spans of a time "
        "column; ctid: by blocks of the table on disk"
    )

    @model_validator(mode="after")
    def _blocks(self) -> Self:
        if self.by == "ctid" and self.column is not None:
            raise ValueError("by: ctid takes no 'column'")
        return self


class PostgresSourceConfig(PostgresConfig):
    later: ClassVar[dict[str, str]] = {
        "cdc": "read 'incremental', or in full into a destination with mode upsert",
        "tables": "write a source for each table",
    }

    table: str | None = Field(
        None, min_length=1, description="the table or view to read: name, or schema.name"
    )
    query: Query | None = Field(
        None, description="a SELECT to read instead of a table; variables in it are bound values"
    )
    columns: Names | None = Field(None, min_length=1, description="read only these, in this order")
    incremental: Incremental | None = Field(
        None, description="read only what is new since the last run"
    )
    sharding: Sharding | None = Field(
        None, description="divide the read into parts by other rules than ranges of the key"
    )
    batch_size: int | None = Field(None, ge=1, description="the most rows in a batch")

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.table is None) == (self.query is None):
            raise ValueError("set either 'table' or 'query'")
        if self.incremental is not None and self.sharding is not None:
            raise ValueError("an incremental read is one ordered part: leave 'sharding' out")
        if self.sharding is not None and self.query is not None:
            if self.sharding.by == "ctid":
                raise ValueError("by: ctid needs 'table'")
            if self.sharding.column is None:
                raise ValueError("'sharding' of a query needs 'column'")
        return self


class PostgresDestinationConfig(PostgresConfig):
    table: str = Field(min_length=1, description="the table to write: name, or schema.name")
    mode: Literal["append", "overwrite", "upsert", "mirror"] = Field(
        "append",
        description="append adds rows; overwrite swaps in the new rows at the end; upsert keeps the "
        "last row of each key; mirror also deletes rows that are not in the source any more, at "
        "the end of a run that read all of it and in which no row failed",
    )
    key: Names = Field(default_factory=list, description="the columns that identify a row")
    sequence: str | None = Field(
        None, description="apply a row only if this column is greater than in the stored row"
    )
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
    delete_max: DeleteMax = Field(
        0.2,
        description="with mode mirror: the most rows that a run may delete because its source "
        "does not have them any more, as a share of the table (20%) or a count; if there are "
        "more, that is an error and no row is deleted",
    )
    create_table: bool = Field(
        True,
        description="create a missing table, and add columns that the rows have and the table "
        "has not; a table copied "
        "from PostgreSQL keeps types such as uuid and varchar(n), NOT NULL and the primary key, and loses "
        "enums, defaults, checks, foreign keys and indexes (see the page on types)",
    )
    changelog: Literal["columns"] | None = Field(
        None, description="'columns' appends changes as rows, with their kind in the column _op"
    )
    batch_size: int | None = Field(
        None, ge=1, description="the most rows in one COPY; by default 50,000"
    )
    lock_timeout: Duration = Field(
        30.0, description="how long to wait for rows or a table that another program has locked"
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
            raise ValueError(f"mode '{self.mode}' needs 'key'")
        if "delete_max" in self.model_fields_set and self.mode != "mirror":
            raise ValueError("'delete_max' needs mode 'mirror'")
        if self.sequence is not None and not keyed:
            raise ValueError("'sequence' needs mode 'upsert' or 'mirror'")
        if self.changelog is not None and self.mode != "append":
            raise ValueError("'changelog: columns' needs mode 'append'")
        if len(set(self.key)) != len(self.key):
            raise ValueError("'key' names a column twice")
        return self
