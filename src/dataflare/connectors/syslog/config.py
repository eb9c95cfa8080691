"""The options of a `syslog` source."""

from __future__ import annotations

from typing import Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dataflare.model.units import Size
from dataflare.sdk.push.addresses import ServerTls
from dataflare.sdk.push.config import LogConfig
from dataflare.sdk.push.streams import Endpoint, ListenAtSocket, endpoint_of


class SyslogConfig(LogConfig, BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    listen: ListenAtSocket | list[ListenAtSocket] = Field(
        ["udp://127.0.0.1:5514", "tcp://127.0.0.1:5514"],
        description="one or several of tcp://host:port, udp://host:port, unix:///path and unixgram:///path; "
        "udp://:514 listens at all addresses of the machine",
    )
    tls: ServerTls | None = Field(None, description="speak TLS (RFC 5425) at the tcp:// addresses")
    timezone: str = Field(
        "UTC", description="of messages that do not say theirs, such as those of RFC 3164"
    )
    max_message: Size = Field(
        64 << 10, ge=1, description="a connection with a larger message is closed"
    )
    max_connections: int = Field(
        1_000, ge=1, description="how many connections may be open; more are closed at once"
    )

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ValueError, OSError, KeyError) as error:
            raise ValueError(f"'{value}' is not a time zone, such as Europe/Berlin") from error
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.endpoints:
            raise ValueError("'listen' names no address")
        if self.tls is not None and not any(each.scheme == "tcp" for each in self.endpoints):
            raise ValueError("'tls' is for addresses with tcp://")
        return self

    @property
    def endpoints(self) -> list[Endpoint]:
        given = [self.listen] if isinstance(self.listen, str) else self.listen
        return [endpoint_of(each) for each in given]
