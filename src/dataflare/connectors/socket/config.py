"""The options of `socket` sources and destinations."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dataflare.model.units import Size
from dataflare.sdk.messages.config import ValueSourceOptions
from dataflare.sdk.push.addresses import ServerTls
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
        if self.max_message > self.log.max_size // 8:
            raise ValueError("'max_message' may be at most an eighth of the log's max_size")
        return self

    @property
    def endpoint(self) -> Endpoint:
        return endpoint_of(self.listen)

    @property
    def datagram_framing(self) -> MakeFraming | None:
        return self.make_framing if self.framing is not None else None
