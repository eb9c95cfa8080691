"""The options of RabbitMQ sources and destinations."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dataflare.model.units import Duration
from dataflare.sdk.brokers.rows import Shape, pieces
from dataflare.sdk.messages.config import MessageOptions, SourceMessageOptions


class Tls(BaseModel):
    """How the server shows who it is, and who asks it."""

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


class RabbitmqConfig(BaseModel):
    """How to reach the server; the same for sources and destinations."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    connection: str = Field(
        repr=False,
        description="amqp://user:password@host:5672/vhost, or amqps:// for TLS; the vhost / is written %2F, or left out",
    )
    tls: Tls | None = Field(None, description="of amqps: {ca, certificate, key}")
    timeout: Duration = Field(10.0, gt=0, description="how long to wait for one answer")

    @field_validator("connection")
    @classmethod
    def _url(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            valid = parts.scheme in ("amqp", "amqps") and parts.hostname and parts.port != 0
        except ValueError:
            valid = None
        if not valid:
            raise ValueError("expected amqp://host:5672/ or amqps://host:5671/")
        return value

    @model_validator(mode="after")
    def _tls_is_spoken(self) -> Self:
        if self.tls is not None and not self.connection.startswith("amqps://"):
            raise ValueError("'tls' has no effect unless 'connection' begins with amqps://")
        return self

    @property
    def server(self) -> str:
        """Host, port and vhost, to show."""
        parts = urlsplit(self.connection)
        port = parts.port or (5671 if parts.scheme == "amqps" else 5672)
        return f"{parts.hostname}:{port}{parts.path if parts.path not in ('', '/') else ''}"


class FromOffset(BaseModel):
    """Where reading a stream begins, by the offset of a message."""

    model_config = ConfigDict(extra="forbid")

    offset: int = Field(ge=0, description="the first message at or after this offset")


class FromTime(BaseModel):
    """Where reading a stream begins, by time."""

    model_config = ConfigDict(extra="forbid")

    time: datetime = Field(
        description="about the first message at or after this time, as the server finds it: chunks of messages have "
        "times, in whole seconds"
    )

    @field_validator("time")
    @classmethod
    def _zone(cls, value: datetime) -> datetime:
        return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


class RabbitmqSourceConfig(SourceMessageOptions, RabbitmqConfig):
    """Options of a `rabbitmq` source."""

    queue: str | list[str] = Field(description="the name of a queue, or a list of names")
    kind: Literal["queue", "stream"] = Field(
        "queue",
        description="queue: a message is acknowledged after the checkpoint that has it, and is gone then; stream: a queue "
        "of the type stream, which keeps its messages, read by their offsets",
    )
    start: Literal["earliest", "latest"] | FromOffset | FromTime = Field(
        "earliest",
        description="where the first run begins in a stream: earliest, latest, {offset: ...}, {time: ...}",
    )
    stop: Literal["latest"] | None = Field(
        None,
        description="latest: read as many messages of a queue as are there when the run starts, and end. By default the "
        "source has no end",
    )
    id: str | None = Field(
        None,
        min_length=1,
        description="what tells a message from all others, so that one that is delivered again is left out: message_id, "
        "or the name of a header. Without it message_id is used where a message has one, and others may come twice",
    )
    prefetch: int = Field(
        10_000,
        ge=1,
        le=65_535,
        description="how many messages may be without an acknowledgement; when half are, a checkpoint is taken",
    )
    window: int = Field(
        1_000, ge=0, description="how many ids of acknowledged messages are remembered"
    )

    @field_validator("queue")
    @classmethod
    def _names(cls, value: str | list[str]) -> str | list[str]:
        names = [value] if isinstance(value, str) else value
        if not names or not all(names) or len(set(names)) != len(names):
            raise ValueError("expected the name of a queue, or a list of different names")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.key_format is not None:
            raise ValueError("'key_format' has no effect: messages of RabbitMQ have no keys")
        if self.tombstones == "delete":
            raise ValueError("messages of RabbitMQ have no keys, so 'tombstones' cannot be delete")
        if self.kind == "queue" and self.start != "earliest":
            raise ValueError("'start' has no effect unless 'kind' is stream")
        if self.kind == "stream" and self.stop is not None:
            raise ValueError(
                "'stop' has no effect on a stream: the server does not say where it ends"
            )
        return self

    @property
    def queues(self) -> list[str]:
        return [self.queue] if isinstance(self.queue, str) else self.queue


class RabbitmqDestinationConfig(MessageOptions, RabbitmqConfig):
    """Options of a `rabbitmq` destination."""

    exchange: str = Field(
        "", description="the exchange to write; by default the one that has every queue by its name"
    )
    routing_key: str = Field(
        "",
        description="the routing key, which is the name of the queue without `exchange`; {column} in it is the value of a "
        "column",
    )
    id: str | None = Field(
        None,
        min_length=1,
        description="the column whose value tells a row from all others; it becomes the message_id, by which consumers "
        "can leave out a message that comes again",
    )
    headers: dict[str, str] = Field(
        default_factory=dict, description="by header, the column with its value: {trace-id: trace}"
    )
    persistent: bool = Field(True, description="whether messages of durable queues are on disk")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.key_format is not None:
            raise ValueError("'key_format' has no effect: messages of RabbitMQ have no keys")
        if not self.exchange and not self.routing_key:
            raise ValueError("needs 'exchange' or 'routing_key'")
        return self

    @property
    def shape(self) -> Shape:
        rest = self.format in ("raw", "text")
        return Shape(pieces(self.routing_key), id=self.id, headers=self.headers, only_rest=rest)
