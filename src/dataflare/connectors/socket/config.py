"""The options of `socket` sources and destinations."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dataflare.model.units import Duration, Size
from dataflare.sdk.messages.config import ValueOptions, ValueSourceOptions
from dataflare.sdk.push.addresses import ClientTls, ServerTls, address_of
from dataflare.sdk.push.client_config import refuse_headers
from dataflare.sdk.push.config import LogConfig
from dataflare.sdk.push.framing import Framing, Lengths, Lines, MakeFraming
from dataflare.sdk.push.streams import Endpoint, ListenAtSocket, endpoint_of


class FramingOptions(BaseModel):
    """How the bytes of a connection are cut into messages."""

    model_config = ConfigDict(extra="forbid")

    framing: Literal["lines", "length"] | None = Field(
        None,
        description="lines: each line is a message; length: each has its length before it. By default lines for "
        "connections, and a whole datagram is one message",
    )
    length_bytes: Literal[1, 2, 4, 8] = Field(4, description="for length: how many bytes it has")
    byte_order: Literal["big", "little"] = Field("big", description="for length")
    max_message: Size = Field(
        1 << 20, ge=1, description="a connection with a larger message is closed"
    )

    @model_validator(mode="after")
    def _one_framing(self) -> Self:
        if self.framing != "length" and {"length_bytes", "byte_order"} & self.model_fields_set:
            raise ValueError("'length_bytes' and 'byte_order' are for framing: length")
        return self

    def make_framing(self) -> Framing:
        if self.framing == "length":
            return Lengths(self.max_message, self.length_bytes, self.byte_order)
        return Lines(self.max_message)


class SocketDestinationConfig(FramingOptions, ValueOptions):
    """Options of a `socket` destination."""

    connect: str = Field(
        description="tcp://host:port or unix:///path; or udp://host:port, whose datagrams may be lost unnoticed"
    )
    tls: ClientTls | bool = Field(
        False, description="speak TLS: true, or {ca, certificate, key}; for tcp"
    )
    max_message: Size = Field(
        1 << 20, ge=1, description="a row whose message is larger is a row error"
    )
    reply: str = Field(
        "",
        description="what the receiver sends for each message that it has, such as OK and a line feed: "
        'reply: "OK\\n". A message without it is sent again over the next connection',
    )
    timeout: Duration = Field(
        30.0,
        gt=0,
        description="how long to wait for the connection and for confirmations; a receiver that is away for longer is an "
        "error",
    )

    @field_validator("connect")
    @classmethod
    def _is_connection(cls, value: str) -> str:
        found = endpoint_of(value)
        if found.scheme == "unixgram":
            raise ValueError("expected tcp://host:port, udp://host:port or unix:///path")
        if found.scheme in ("tcp", "udp") and (
            not address_of(found.place).host or not address_of(found.place).port
        ):
            raise ValueError(f"expected {found.scheme}://host:port")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        refuse_headers(self)
        if self.tls and self.endpoint.scheme != "tcp":
            raise ValueError("'tls' is for connect: tcp://...")
        if self.endpoint.is_datagrams:
            if self.framing is not None:
                raise ValueError("'framing' is for tcp and unix: a datagram is one message")
            if self.reply:
                raise ValueError("'reply' is for tcp and unix")
            return self
        if self.framing != "length" and self.value_format in ("avro", "protobuf"):
            raise ValueError(f"format: {self.value_format} has bytes, and needs framing: length")
        return self

    @property
    def endpoint(self) -> Endpoint:
        return endpoint_of(self.connect)


class SocketSourceConfig(FramingOptions, ValueSourceOptions, LogConfig):
    listen: ListenAtSocket = Field(
        description="tcp://host:port, udp://host:port, unix:///path or unixgram:///path; tcp://:port listens at "
        "all addresses of the machine"
    )
    tls: ServerTls | None = Field(None, description="speak TLS; for tcp")
    reply: str = Field(
        "",
        description="what a connection is sent for each message that is on disk, such as OK and a line feed: "
        'reply: "OK\\n"',
    )
    max_connections: int = Field(
        1_000, ge=1, description="how many connections may be open; more are closed at once"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        scheme = self.endpoint.scheme
        if self.tls is not None and scheme != "tcp":
            raise ValueError("'tls' is for listen: tcp://...")
        if self.endpoint.is_datagrams:
            if self.reply:
                raise ValueError("'reply' is for connections: tcp and unix")
            if self.framing == "length":
                raise ValueError("framing: length is for connections: tcp and unix")
        return self

    @property
    def endpoint(self) -> Endpoint:
        return endpoint_of(self.listen)

    @property
    def datagram_framing(self) -> MakeFraming | None:
        return self.make_framing if self.framing is not None else None
