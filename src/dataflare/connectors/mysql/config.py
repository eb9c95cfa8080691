"""The options of a MySQL or MariaDB source or destination."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from dataflare.model.units import Duration
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


class MysqlSourceConfig(ServerReadOptions, MysqlConfig):
    later: ClassVar[dict[str, str]] = {
        "cdc": "read 'incremental', or in full into a destination with mode upsert",
        "tables": "write a source for each table",
    }

    table: str | None = Field(
        None, min_length=1, description="the table or view to read: name, or database.name"
    )
    sharding: Sharding | None = Field(
        None,
        description="divide the read into parts by other rules than ranges of the key; by default a "
        "large table with a whole number as its key is divided",
    )

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
