"""The options of Kinesis sources and destinations."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dataflare.model.units import Duration
from dataflare.sdk.aws.options import AwsOptions, SendingOptions
from dataflare.sdk.brokers.rows import Shape, pieces
from dataflare.sdk.messages.config import ValueOptions, ValueSourceOptions

_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")


class KinesisConfig(AwsOptions):
    """The same for sources and destinations."""

    stream: str = Field(description="the name of a stream, or its ARN")

    @field_validator("stream")
    @classmethod
    def _is_stream(cls, value: str) -> str:
        name = value.partition(":stream/")[2] if value.startswith("arn:") else value
        if not _NAME.fullmatch(name):
            raise ValueError(f"{value!r} is neither the name of a stream nor its ARN")
        return value

    @property
    def named(self) -> dict[str, str]:
        """The stream, as calls have it."""
        return {"StreamARN" if self.stream.startswith("arn:") else "StreamName": self.stream}

    @property
    def name(self) -> str:
        return self.stream.rpartition("/")[2]

    @property
    def place(self) -> str:
        """To show."""
        return f"stream '{self.name}' of Kinesis at {self.server}"


class FromTime(BaseModel):
    """Where reading begins, by time."""

    model_config = ConfigDict(extra="forbid")

    time: datetime = Field(description="the first records that arrived at or after this time")

    @field_validator("time")
    @classmethod
    def _zone(cls, value: datetime) -> datetime:
        return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


class KinesisSourceConfig(ValueSourceOptions, KinesisConfig):
    """Options of a `kinesis` source."""

    start: Literal["earliest", "latest"] | FromTime = Field(
        "earliest",
        description="where the first run begins: earliest: the oldest record that is there; latest: records that arrive "
        "from now on; {time: ...}",
    )
    stop: Literal["latest"] | None = Field(
        None,
        description="latest: read what has arrived when the run starts, and end; the next run goes on there. By default the "
        "source has no end",
    )
    poll: Duration = Field(
        0.5,
        ge=0.2,
        description="how long to wait before a shard that gave nothing is asked again. Kinesis takes five requests a second "
        "for each shard, of all its readers together",
    )
    discovery: Duration = Field(
        10.0,
        gt=0,
        description="how often to look for shards that came by resharding. A shard is read when those that it came "
        "from were read to their end",
    )
    lost_records: Literal["fail", "skip"] = Field(
        "fail",
        description="when a shard was not read for longer than the stream keeps its records: fail, or go on with the oldest "
        "that is there and warn",
    )


class KinesisDestinationConfig(ValueOptions, SendingOptions, KinesisConfig):
    """Options of a `kinesis` destination."""

    partition_key: str | None = Field(
        None,
        min_length=1,
        description="which shard a row goes to: rows with one key go to one shard, in their order; {column} in it is the "
        "value of a column. Without it rows are spread by their content",
    )

    @property
    def shape(self) -> Shape:
        rest = self.format in ("raw", "text")
        return Shape(pieces(self.partition_key or "-"), only_rest=rest)
