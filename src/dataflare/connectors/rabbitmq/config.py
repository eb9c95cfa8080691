"""The options of RabbitMQ sources and destinations."""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dataflare.model.units import Moment
from dataflare.sdk.brokers.config import TlsBrokerConfig
from dataflare.sdk.brokers.rows import Shape, pieces
from dataflare.sdk.messages.config import MessageOptions, SourceMessageOptions
from dataflare.sdk.tls import Tls


class RabbitmqConfig(TlsBrokerConfig):
    """How to reach the server; the same for sources and destinations."""

    ports = MappingProxyType({"amqp": 5672, "amqps": 5671})
    path = "/"
    keyless = "messages of RabbitMQ"

    connection: str = Field(
        repr=False,
        description="amqp://user:password@host:5672/vhost, or amqps:// for TLS; the vhost / is written %2F, or left out",
    )
    tls: Tls | None = Field(None, description="of amqps: {ca, certificate, key}")

    @property
    def server(self) -> str:
        """Host, port and vhost, to show."""
        path = urlsplit(self.connection).path
        return super().server + (path if path != "/" else "")


class FromOffset(BaseModel):
    """Where reading a stream begins, by the offset of a message."""

    model_config = ConfigDict(extra="forbid")

    offset: int = Field(ge=0, description="the first message at or after this offset")


class FromTime(BaseModel):
    """Where reading a stream begins, by time."""

    model_config = ConfigDict(extra="forbid")

    time: Moment = Field(
        description="about the first message at or after this time, as the server finds it: chunks of messages have "
        "times, in whole seconds"
    )


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
        if not self.exchange and not self.routing_key:
            raise ValueError("needs 'exchange' or 'routing_key'")
        return self

    @property
    def shape(self) -> Shape:
        rest = self.format in ("raw", "text")
        return Shape(
            pieces(self.routing_key),
            id=self.id,
            headers=self.headers,
            only_rest=rest,
            names_trace=True,
        )
