"""The options of DynamoDB sources."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dataflare.model.units import Duration
from dataflare.sdk.aws.options import AwsOptions

_NAME = re.compile(r"[a-zA-Z0-9_.-]{3,255}")


class DynamodbCdc(BaseModel):
    """How changes are followed."""

    model_config = ConfigDict(extra="forbid")

    snapshot: Literal["initial", "never"] = Field(
        "initial",
        description="initial: the first run reads the table before its changes; never: only changes from the first run on",
    )
    stop: Literal["latest"] | None = Field(
        None,
        description="latest: read the changes that are there when the run starts, and end; the next run goes on there. By "
        "default the source has no end",
    )


class DynamodbSourceConfig(AwsOptions):
    table: str = Field(description="the name of a table")
    cdc: bool | DynamodbCdc = Field(
        False,
        description="follow the table by its stream: true, or {snapshot, stop}. By default each run reads the whole table",
    )
    segments: int = Field(
        4,
        ge=1,
        le=1_000,
        description="into how many parts a scan is divided, which are read at a time",
    )
    consistent: bool = Field(
        True,
        description="a scan sees all that was written before it. false costs half as much, and may miss the last seconds",
    )
    poll: Duration = Field(
        0.5, ge=0.1, description="how long to wait before a shard that gave nothing is asked again"
    )
    discovery: Duration = Field(
        10.0,
        gt=0,
        description="how often to look for new shards. A shard is read when the one that it came from was read to its end",
    )
    metadata: list[str] = Field(
        default_factory=list,
        description="what else of a change becomes a column, with an underscore before its name: sequence, shard, timestamp. "
        "NULL in rows of a scan",
    )
    metadata_nested: bool = Field(
        False, description="these are the fields of one column, `_message`, instead"
    )

    @field_validator("table")
    @classmethod
    def _is_table(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError(f"{value!r} cannot be the name of a table")
        return value

    @property
    def changes(self) -> DynamodbCdc | None:
        """How changes are followed; None where they are not."""
        if isinstance(self.cdc, DynamodbCdc):
            return self.cdc
        return DynamodbCdc.model_validate({}) if self.cdc else None

    @property
    def place(self) -> str:
        """To show."""
        return f"table '{self.table}' of DynamoDB at {self.server}"
