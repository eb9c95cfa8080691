"""The options of a PostgreSQL source or destination."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dataflare.model.units import Duration
from dataflare.sdk.sql.change_facts import DESCRIPTION, Fact
from dataflare.sdk.sql.config import (
    Cuts,
    ServerOptions,
    ServerReadOptions,
    SqlOptions,
)


class PostgresConfig(ServerOptions):
    """How to connect to the database; the same for sources and destinations."""

    connection_string: str = Field(
        min_length=1,
        repr=False,
        description="postgresql://user:password@host:5432/database?sslmode=require, or the same as "
        "'host=... dbname=...'; missing parts are taken from PGHOST and similar variables, as "
        "with psql",
    )
    statement_timeout: Duration | None = Field(
        None,
        description="the longest one statement may run; by default as long as it takes. A server that does not answer "
        "within `connect_timeout` after that is taken for lost",
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


class Changes(BaseModel):
    """How the changes of a table are read from the server's log."""

    model_config = ConfigDict(extra="forbid")

    slot: str | None = Field(
        None,
        pattern="^[a-z0-9_]{1,63}$",
        description="the replication slot, made if it is not there; by default one of this workflow and step",
    )
    publication: str | None = Field(
        None,
        min_length=1,
        max_length=63,
        description="the publication with the table, made if it is not there; by default one of this workflow and step",
    )
    snapshot: Literal["initial", "never"] = Field(
        "initial",
        description="initial: the first run reads the table, and then its changes; never: only changes, from the "
        "position of the slot on",
    )
    stop: Literal["latest"] | None = Field(
        None,
        description="latest: read the changes that are there when the run starts, and end; the next run goes on there. "
        "By default the source has no end, except in a workflow with mode batch",
    )
    metadata: list[Fact] = Field(default_factory=list, description=DESCRIPTION)


class PostgresSourceConfig(ServerReadOptions, PostgresConfig):
    cdc: bool | Changes = Field(
        False,
        description="read the table and then its changes from the server's log: true, or the options of it",
    )

    table: str | None = Field(
        None, min_length=1, description="the table or view to read: name, or schema.name"
    )
    sharding: Sharding | None = Field(
        None, description="divide the read into parts by other rules than ranges of the key"
    )

    @property
    def changes(self) -> Changes | None:
        """How changes are read; None where they are not."""
        if isinstance(self.cdc, Changes):
            return self.cdc
        return Changes.model_validate({}) if self.cdc else None

    @model_validator(mode="after")
    def _followed(self) -> Self:
        if self.changes is not None:
            for name in ("query", "incremental", "sharding"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"'cdc' reads a whole table and its changes: leave '{name}' out"
                    )
        return self

    @model_validator(mode="after")
    def _divided(self) -> Self:
        if self.sharding is not None and self.query is not None:
            if self.sharding.by == "ctid":
                raise ValueError("by: ctid needs 'table'")
            if self.sharding.column is None:
                raise ValueError("'sharding' of a query needs 'column'")
        return self


class PostgresDestinationConfig(SqlOptions, PostgresConfig):
    table: str = Field(min_length=1, description="the table to write: name, or schema.name")
    create_table: bool = Field(
        True,
        description="create a missing table, and add columns that the rows have and the table "
        "has not; a table copied "
        "from PostgreSQL keeps types such as uuid and varchar(n), NOT NULL and the primary key, and loses "
        "enums, defaults, checks, foreign keys and indexes (see the page on types)",
    )
    batch_size: int | None = Field(
        None, ge=1, description="the most rows in one COPY; by default 50,000"
    )
    lock_timeout: Duration = Field(
        30.0, description="how long to wait for rows or a table that another program has locked"
    )
