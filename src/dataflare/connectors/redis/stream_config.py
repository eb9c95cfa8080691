"""The options of the `redis` source."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dataflare.connectors.redis.connection import RedisConnection
from dataflare.model.units import Moment
from dataflare.sdk.messages.config import SourceMessageOptions

_ID = re.compile(r"\d{1,20}(-\d{1,20})?")


class FromTime(BaseModel):
    """Where reading begins, by time."""

    model_config = ConfigDict(extra="forbid")

    time: Moment = Field(description="the first entry of each stream at or after this time")


class FromId(BaseModel):
    """Where reading begins, by the id of an entry."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="the first entry at or after this id: 1735689600000-0")

    @field_validator("id")
    @classmethod
    def _is_id(cls, value: str) -> str:
        if not _ID.fullmatch(value):
            raise ValueError("expected the id of an entry, such as 1735689600000-0")
        return value


class RedisSourceConfig(SourceMessageOptions, RedisConnection):
    """Options of a `redis` source."""

    keyless = "entries of Redis"

    stream: str | list[str] = Field(description="the key of a stream, or a list of keys")
    field: str | None = Field(
        None,
        min_length=1,
        description="the field of an entry that has the message, which is read by `format`; without it the fields of "
        "an entry are the columns: text, unless the step's `schema` names another type",
    )
    start: Literal["earliest", "latest"] | FromTime | FromId = Field(
        "earliest",
        description="where the first run begins: earliest: the oldest entry; latest: entries from now on; "
        "{time: ...}; {id: ...}. A group that is there already goes on where it is",
    )
    stop: Literal["latest"] | None = Field(
        None,
        description="latest: read to the entries that are there when the run starts, and end; the next run goes on "
        "there. By default the source has no end",
    )
    group: str | None = Field(
        None,
        min_length=1,
        description="read as a member of this consumer group, which shares the entries with its other members; made "
        "if it is not there. Entries are acknowledged after the checkpoint that has them",
    )
    consumer: str | None = Field(
        None,
        min_length=1,
        description="the name of this member of the group; no other reader of the group may have it",
    )
    lost_entries: Literal["fail", "skip"] = Field(
        "fail",
        description="when entries were trimmed from the stream before they were read: fail, or skip to the oldest that "
        "is there and say how many are gone",
    )

    @field_validator("stream")
    @classmethod
    def _names(cls, value: str | list[str]) -> str | list[str]:
        names = [value] if isinstance(value, str) else value
        if not names or not all(names):
            raise ValueError("expected the key of a stream")
        if len(set(names)) != len(names):
            raise ValueError("a stream is named twice")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.group is None) != (self.consumer is None):
            raise ValueError("'group' and 'consumer' belong together")
        if self.field is None and self.format != "json":
            raise ValueError(
                f"format: {self.format} needs 'field', which says where the message is"
            )
        return self

    @property
    def streams(self) -> list[str]:
        return [self.stream] if isinstance(self.stream, str) else self.stream
