"""The options of a MySQL or MariaDB source or destination."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dataflare.model.units import Duration
from dataflare.sdk.sql.change_facts import DESCRIPTION, Fact
from dataflare.sdk.sql.config import ServerOptions, ServerReadOptions, Sharding, SqlOptions


class MysqlConfig(ServerOptions):
    """How to connect to the database; the same for sources and destinations."""

    connection_string: str = Field(
        min_length=1,
        repr=False,
        description="mysql://user:password@host:3306/database; after a question mark: ssl_mode "
        "(disabled, preferred, required, verify_ca, verify_identity), ssl_ca, ssl_cert, ssl_key, "
        "unix_socket",
    )


class Changes(BaseModel):
    """How the changes of a table are read from the server's log."""

    model_config = ConfigDict(extra="forbid")

    server_id: int | None = Field(
        None,
        ge=1,
        lt=1 << 32,
        description="the number by which the server tells this reader from its replicas; by default one that is drawn "
        "at random",
    )
    snapshot: Literal["initial", "never"] = Field(
        "initial",
        description="initial: the first run reads the table, and then its changes; never: only changes, from the end "
        "of the log at the first start on",
    )
    stop: Literal["latest"] | None = Field(
        None,
        description="latest: read the changes that are there when the run starts, and end; the next run goes on there. "
        "By default the source has no end, except in a workflow with mode batch",
    )
    metadata: list[Fact] = Field(default_factory=list, description=DESCRIPTION)


def _options(value: Any) -> Any:
    return {} if value is True else None if value is False else value


Followed = Annotated[
    Changes | None, BeforeValidator(_options, json_schema_input_type=bool | Changes)
]


class MysqlSourceConfig(ServerReadOptions, MysqlConfig):
    cdc: Followed = Field(
        None,
        description="read the table and then its changes from the server's log: true, or the options of it",
    )

    table: str | None = Field(
        None, min_length=1, description="the table or view to read: name, or database.name"
    )
    sharding: Sharding | None = Field(
        None,
        description="divide the read into parts by other rules than ranges of the key; by default a "
        "large table with a whole number as its key is divided",
    )

    @model_validator(mode="after")
    def _followed(self) -> Self:
        if self.cdc is not None:
            for name in ("query", "incremental", "sharding"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"'cdc' reads a whole table and its changes: leave '{name}' out"
                    )
        return self

    @model_validator(mode="after")
    def _divided(self) -> Self:
        if self.sharding is not None and self.query is not None:
            raise ValueError("'sharding' needs 'table'")
        return self


class MysqlDestinationConfig(SqlOptions, MysqlConfig):
    table: str = Field(min_length=1, description="the table to write: name, or database.name")
    create_table: bool = Field(
        True,
        description="create a missing table, and add columns that the rows have and the table has not",
    )
    batch_size: int | None = Field(
        None, ge=1, description="the most rows in one LOAD DATA; by default 50,000"
    )
    lock_timeout: Duration = Field(
        30.0, description="how long to wait for rows or a table that another program has locked"
    )
