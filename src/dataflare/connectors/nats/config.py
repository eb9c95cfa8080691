"""The options of NATS sources and destinations."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dataflare.model.units import Duration
from dataflare.sdk.brokers.rows import Shape, pieces
from dataflare.sdk.messages.config import MessageOptions, SourceMessageOptions

_SUBJECT = re.compile(r"[^\s.]+(\.[^\s.]+)*")


class Tls(BaseModel):
    """How the servers show who they are, and who asks them."""

    model_config = ConfigDict(extra="forbid")

    ca: str | None = Field(
        None, description="a file with the certificates to trust, in place of the system's"
    )
    certificate: str | None = Field(None, description="a file with the client's own certificate")
    key: str | None = Field(None, description="a file with the key of that certificate")

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.key is None) != (self.certificate is None):
            raise ValueError("'certificate' and 'key' belong together")
        return self


class NatsConfig(BaseModel):
    """How to reach the servers; the same for sources and destinations."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    connection: str | list[str] = Field(
        repr=False,
        description="one or more servers: nats://user:password@host:4222, or tls://...; with commas between, or as "
        "a list",
    )
    token: str | None = Field(None, repr=False, min_length=1, description="logs in by a token")
    credentials: str | None = Field(
        None, description="logs in by a file of credentials (.creds), as NATS makes them"
    )
    tls: Tls | bool = Field(False, description="speak TLS: true, or {ca, certificate, key}")
    timeout: Duration = Field(10.0, gt=0, description="how long to wait for one answer")

    @field_validator("connection")
    @classmethod
    def _urls(cls, value: str | list[str]) -> str | list[str]:
        for each in value.split(",") if isinstance(value, str) else value:
            parts = urlsplit(each.strip())
            try:
                valid = parts.scheme in ("nats", "tls") and parts.hostname and parts.port != 0
            except ValueError:
                valid = None
            if not valid:
                raise ValueError("expected nats://host:4222 or tls://host:4222")
        return value

    @property
    def urls(self) -> list[str]:
        given = self.connection
        return [each.strip() for each in (given.split(",") if isinstance(given, str) else given)]

    @property
    def server(self) -> str:
        """Hosts and ports, to show."""
        parts = [urlsplit(url) for url in self.urls]
        return ",".join(f"{each.hostname}:{each.port or 4222}" for each in parts)


class FromSequence(BaseModel):
    """Where reading begins, by the sequence of a message."""

    model_config = ConfigDict(extra="forbid")

    sequence: int = Field(ge=1, description="the first message at or after this sequence")


class FromTime(BaseModel):
    """Where reading begins, by time."""

    model_config = ConfigDict(extra="forbid")

    time: datetime = Field(description="the first message at or after this time")

    @field_validator("time")
    @classmethod
    def _zone(cls, value: datetime) -> datetime:
        return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


class NatsSourceConfig(SourceMessageOptions, NatsConfig):
    """Options of a `nats` source."""

    stream: str = Field(min_length=1, description="the name of a stream")
    subject: str | None = Field(
        None, description="only messages of this subject, which may have wildcards: orders.*.eu"
    )
    start: Literal["earliest", "latest"] | FromSequence | FromTime = Field(
        "earliest",
        description="where the first run begins: earliest: the oldest message; latest: messages from now on; "
        "{sequence: ...}; {time: ...}",
    )
    stop: Literal["latest"] | None = Field(
        None,
        description="latest: read to the messages that are there when the run starts, and end; the next run goes on "
        "there. By default the source has no end",
    )
    durable: str | None = Field(
        None,
        pattern=r"[^\s.*>/\\]+",
        description="read as this durable consumer, made if it is not there: messages are acknowledged after the "
        "checkpoint that has them. A stream with retention workqueue needs it. Without it the stream is read by its "
        "sequence, and nothing is changed on the server",
    )
    ack_wait: Duration = Field(
        60.0,
        gt=0,
        description="of a durable consumer that is made: after how long without an acknowledgement a message is "
        "delivered again; longer than the interval of checkpoints",
    )
    prefetch: int = Field(
        20_000,
        ge=1,
        description="of a durable consumer that is made: how many messages may be without an acknowledgement; when "
        "half are, a checkpoint is taken",
    )
    window: int = Field(
        1_000,
        ge=0,
        description="of a durable consumer: how many acknowledged messages are remembered, so that one that is delivered "
        "again is left out",
    )
    lost_messages: Literal["fail", "skip"] = Field(
        "fail",
        description="when messages were removed from the stream before they were read, because it keeps a limited "
        "number: fail, or skip to the oldest that is there and say how many are gone",
    )

    @field_validator("subject")
    @classmethod
    def _is_subject(cls, value: str | None) -> str | None:
        if value is not None and not _SUBJECT.fullmatch(value):
            raise ValueError(f"{value!r} cannot be a subject")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.key_format is not None:
            raise ValueError("'key_format' has no effect: messages of NATS have no keys")
        if self.tombstones == "delete":
            raise ValueError("messages of NATS have no keys, so 'tombstones' cannot be delete")
        return self


class NatsDestinationConfig(MessageOptions, NatsConfig):
    """Options of a `nats` destination."""

    subject: str = Field(
        min_length=1,
        description="the subject to write, which a stream must have; {column} in it is the value of a column",
    )
    id: str | None = Field(
        None,
        min_length=1,
        description="the column whose value tells a row from all others: it becomes Nats-Msg-Id, by which the stream "
        "leaves out a message that comes again within its duplicate window",
    )
    headers: dict[str, str] = Field(
        default_factory=dict, description="by header, the column with its value: {trace-id: trace}"
    )

    @field_validator("subject")
    @classmethod
    def _is_subject(cls, value: str) -> str:
        if not _SUBJECT.fullmatch(re.sub(r"\{[^{}]+\}", "x", value)) or set("*>") & set(value):
            raise ValueError(f"{value!r} cannot be the subject of a message")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.key_format is not None:
            raise ValueError("'key_format' has no effect: messages of NATS have no keys")
        return self

    @property
    def shape(self) -> Shape:
        rest = self.format in ("raw", "text")
        return Shape(pieces(self.subject), id=self.id, headers=self.headers, only_rest=rest)

    def model_post_init(self, _: Any) -> None:
        for header in self.headers:
            if not re.fullmatch(r"[!-9;-~]+", header) or header.lower().startswith("nats-"):
                raise ValueError(f"{header!r} cannot be the name of a header")
