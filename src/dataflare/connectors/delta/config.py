"""The options of Delta tables."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dataflare.model.units import Duration
from dataflare.sdk.many_tables import ManyTables
from dataflare.sdk.sql.config import Names, WriteOptions
from dataflare.sdk.stores.options import FROM_ENVIRONMENT, StorageOptions


class DeltaPlace(BaseModel):
    """Where a table is."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(
        min_length=1, description="the table's folder, or its URL: s3://, az:// or gs://"
    )
    storage: StorageOptions = Field(
        FROM_ENVIRONMENT,
        description="how to reach the URL; what is not given comes from the environment",
    )


class DeltaWriteOptions(WriteOptions, DeltaPlace):
    """Options of the destination."""

    path: str = Field(
        min_length=1,
        description="the table's folder, or its URL: s3://, az:// or gs://; created if it does not exist",
    )
    partition_by: Names = Field(
        default_factory=list, description="the columns that partition a table that is created"
    )
    properties: dict[str, str] = Field(
        default_factory=dict,
        description="properties of a table that is created, such as delta.logRetentionDuration",
    )


class DeltaReadOptions(DeltaPlace, ManyTables):
    """Options of the source."""

    path: str = Field(
        min_length=1,
        description="the table's folder, or its URL: s3://, az:// or gs://; with 'tables' the folder above the tables",
    )
    columns: Names | None = Field(None, min_length=1, description="read only these, in this order")
    version: int | None = Field(None, ge=0, description="read this version of the table")
    timestamp: Any = Field(
        None,
        description="read the version that was the last one at this time: 2026-11-29T08:00:00Z",
    )
    new_only: bool = Field(
        False,
        description="read only rows that were added since the last run; an error if rows were changed or "
        "deleted since",
    )
    change_feed: bool = Field(
        False,
        description="read changes instead of rows: a changelog of the versions since starting_version, or "
        "since the last run. The table needs the property delta.enableChangeDataFeed",
    )
    starting_version: int | None = Field(
        None,
        ge=0,
        description="with change_feed: the first version whose changes are read; by default the first run "
        "begins with all rows of the newest version, as inserts",
    )
    watch: bool = Field(
        False, description="with change_feed: go on without an end, with each version that is added"
    )
    watch_interval: Duration = Field(1.0, gt=0, description="with watch: how often to look")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.version is not None and self.timestamp is not None:
            raise ValueError("set only one of 'version' and 'timestamp'")
        fixed = self.version is not None or self.timestamp is not None
        if fixed and (self.new_only or self.change_feed):
            raise ValueError("'version' and 'timestamp' are for a full read of one version")
        if self.new_only and self.change_feed:
            raise ValueError("set only one of 'new_only' and 'change_feed'")
        if self.starting_version is not None and not self.change_feed:
            raise ValueError("'starting_version' needs change_feed: true")
        if self.watch and not self.change_feed:
            raise ValueError("'watch' needs change_feed: true")
        return self
