"""The options of Iceberg tables."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dataflare.model.units import Duration
from dataflare.sdk.many_tables import ManyTables
from dataflare.sdk.sql.config import Names, WriteOptions
from dataflare.sdk.stores.options import FROM_ENVIRONMENT, StorageOptions


class CatalogOptions(BaseModel):
    """The catalogue that knows the table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["sql", "rest", "glue"] = Field(description="the kind of the catalogue")
    uri: str | None = Field(
        None,
        description="sql: the database, such as sqlite:///catalog.db (beside the workflow) or "
        "postgresql+psycopg://...; rest: the address of the server; glue: of another server than Amazon's",
    )
    warehouse: str | None = Field(
        None,
        description="where new tables are: a folder, or a URL such as s3://lake/warehouse; rest: the name "
        "that the server knows it by",
    )
    name: str = Field("dataflare", description="sql: the name of the catalogue in its database")
    token: str | None = Field(None, description="rest: the token to send")
    credential: str | None = Field(
        None, description="rest: id:secret, with which a token is fetched by OAuth2"
    )
    properties: dict[str, str] = Field(
        default_factory=dict, description="other properties of pyiceberg's catalogue"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.type in ("sql", "rest") and self.uri is None:
            raise ValueError(f"a catalogue of type {self.type} needs 'uri'")
        if self.type != "rest" and (self.token or self.credential):
            raise ValueError("'token' and 'credential' are for a catalogue of type rest")
        return self


class IcebergPlace(BaseModel):
    """Where a table is."""

    model_config = ConfigDict(extra="forbid")

    catalog: CatalogOptions = Field(description="the catalogue that knows the table")
    table: str = Field(
        pattern=r"^[^.]+(\.[^.]+)+$", description="the table with its namespace: shop.orders"
    )
    branch: str = Field("main", min_length=1, description="the branch of the table")
    storage: StorageOptions = Field(
        FROM_ENVIRONMENT,
        description="how to reach the data files; what is not given comes from the environment",
    )


class IcebergWriteOptions(WriteOptions, IcebergPlace):
    """Options of the destination."""

    branch: str = Field(
        "main",
        min_length=1,
        description="the branch that is written; if it does not exist, it begins with what main has",
    )
    partition_by: Names = Field(
        default_factory=list,
        description="how a table that is created is partitioned: columns, year(c), month(c), day(c), hour(c), "
        "bucket(16, c), truncate(4, c)",
    )
    properties: dict[str, str] = Field(
        default_factory=dict,
        description="properties of a table that is created, such as write.metadata.delete-after-commit.enabled",
    )
    location: str | None = Field(
        None, description="where a table that is created is; by default below the warehouse"
    )


class IcebergReadOptions(IcebergPlace, ManyTables):
    """Options of the source."""

    chosen_by: ClassVar[str] = "table"
    chosen_as: ClassVar[str] = "-.-"

    columns: Names | None = Field(None, min_length=1, description="read only these, in this order")
    snapshot: int | None = Field(None, description="read this snapshot of the table")
    new_only: bool = Field(
        False,
        description="read only rows that were added since the last run; an error if rows were changed or "
        "deleted since",
    )
    watch: bool = Field(
        False, description="go on without an end, with the rows that each snapshot adds"
    )
    watch_interval: Duration = Field(1.0, gt=0, description="with watch: how often to look")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.snapshot is not None and (self.new_only or self.watch):
            raise ValueError("'snapshot' is for a full read of one snapshot")
        return self
