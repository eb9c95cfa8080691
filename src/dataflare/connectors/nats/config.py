"""The options of NATS sources and destinations."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dataflare.model.units import Duration, Moment
from dataflare.sdk.brokers.config import BrokerConfig
from dataflare.sdk.brokers.rows import Shape, pieces
from dataflare.sdk.messages.config import MessageOptions, SourceMessageOptions
from dataflare.sdk.tls import Tls

_SUBJECT = re.compile(r"[^\s.]+(\.[^\s.]+)*")


class NatsConfig(BrokerConfig):
    """How to reach the servers; the same for sources and destinations."""

    ports = MappingProxyType({"nats": 4222, "tls": 4222})
    lists = True
    keyless = "messages of NATS"

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


class FromSequence(BaseModel):
    """Where reading begins, by the sequence of a message."""

    model_config = ConfigDict(extra="forbid")

    sequence: int = Field(ge=1, description="the first message at or after this sequence")


class FromTime(BaseModel):
    """Where reading begins, by time."""

    model_config = ConfigDict(extra="forbid")

    time: Moment = Field(description="the first message at or after this time")


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

    @property
    def shape(self) -> Shape:
        rest = self.format in ("raw", "text")
        return Shape(
            pieces(self.subject), id=self.id, headers=self.headers, only_rest=rest, names_trace=True
        )

    def model_post_init(self, _: Any) -> None:
        for header in self.headers:
            if not re.fullmatch(r"[!-9;-~]+", header) or header.lower().startswith("nats-"):
                raise ValueError(f"{header!r} cannot be the name of a header")
