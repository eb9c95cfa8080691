"""The options of the `redis` destination."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dataflare.connectors.redis.connection import RedisConnection
from dataflare.model.units import Duration
from dataflare.sdk.brokers.rows import Shape, pieces
from dataflare.sdk.messages.config import MessageOptions

Structure = Literal["stream", "list", "hash", "json"]


class RedisDestinationConfig(MessageOptions, RedisConnection):
    """Options of a `redis` destination."""

    stream: str | None = Field(
        None,
        min_length=1,
        description="the key of a stream, to which each row is added as an entry; {column} in it is the value of a "
        "column",
    )
    list_: str | None = Field(
        None,
        alias="list",
        min_length=1,
        description="the key of a list, to whose end each row is added as a message",
    )
    key: list[str] = Field(
        default_factory=list,
        description="the columns of a row's own key: several are joined with ':'; each row is then a hash or a JSON "
        "document",
    )
    key_prefix: str = Field("", description="put before each key")
    structure: Literal["hash", "json"] = Field(
        "hash",
        description="with `key`. hash: a field for each column that is not NULL; json: text, a JSON object",
    )
    field: str | None = Field(
        None,
        min_length=1,
        description="of a stream: the one field that has the message, written by `format`; without it each column that "
        "is not NULL is a field",
    )
    mode: Literal["append", "upsert", "mirror"] | None = Field(
        None,
        description="append: each row is added, to a stream or a list; upsert, mirror: a row replaces what its key has; "
        "mirror deletes too. By default append, and upsert with `key`",
    )
    maxlen: int | None = Field(
        None, ge=1, description="of a stream: about how many of its newest entries are kept"
    )
    ttl: Duration | None = Field(
        None, ge=1, description="with `key`: how long a row is kept, in whole seconds"
    )
    guarantee: Literal["exactly_once", "at_least_once"] = Field(
        "exactly_once",
        description="exactly_once: the rows of a checkpoint are written when it is done, each with the record that it is "
        "there; at_least_once: rows are written at once, and again after a crash",
    )

    @field_validator("key", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.stream is not None) + (self.list_ is not None) + bool(self.key) != 1:
            raise ValueError("needs one of 'stream', 'list' and 'key'")
        if self.key and self.mode == "append":
            raise ValueError(
                "mode append adds to a 'stream' or a 'list'; with 'key' it is upsert or mirror"
            )
        if not self.key and self.mode not in (None, "append"):
            raise ValueError(f"mode {self.mode} needs 'key'")
        if self.key_format is not None:
            raise ValueError("'key_format' has no effect: keys of Redis are text")
        if self.kind in ("hash", "json") and self.format != "json":
            raise ValueError(f"'format' has no effect with structure: {self.kind}")
        if self.kind == "stream" and self.field is None and self.format != "json":
            raise ValueError(f"format: {self.format} needs 'field', which has the message")
        for name, wanted in (("field", "stream"), ("maxlen", "stream")):
            if getattr(self, name) is not None and getattr(self, wanted) is None:
                raise ValueError(f"'{name}' has no effect without '{wanted}'")
        if self.ttl is not None and not self.key:
            raise ValueError("'ttl' has no effect without 'key'")
        return self

    @property
    def kind(self) -> Structure:
        if self.stream is not None:
            return "stream"
        return "list" if self.list_ is not None else self.structure

    @property
    def real_mode(self) -> str:
        return self.mode or ("upsert" if self.key else "append")

    @property
    def shape(self) -> Shape:
        if not self.key:
            template = self.key_prefix + (self.stream or self.list_ or "")
            return Shape(pieces(template), only_rest=self.format in ("raw", "text"))
        target = [self.key_prefix]
        for at, name in enumerate(self.key):
            target += [name, ":" if at < len(self.key) - 1 else ""]
        return Shape(target, key=self.key, mode=self.real_mode)
