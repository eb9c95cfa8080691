"""The options of an `sse` source."""

from __future__ import annotations

from pydantic import Field, field_validator

from dataflare.model.units import Duration, Size
from dataflare.sdk.messages.config import ValueSourceOptions
from dataflare.sdk.push.client_config import ClientConfig, checked_url
from dataflare.sdk.push.config import LogConfig


class SseConfig(ClientConfig, ValueSourceOptions, LogConfig):
    url: str = Field(description="http://host/path or https://host/path")
    events: list[str] | None = Field(
        None,
        min_length=1,
        description="the names of the events to keep; those without a name are called message. By default all",
    )
    last_event_id: str | None = Field(
        None, min_length=1, description="the event after which the first run begins"
    )
    silence: Duration | None = Field(
        None,
        gt=0,
        description="a connection over which nothing came for so long, not even a comment, is made again",
    )
    max_message: Size = Field(4 << 20, ge=1, description="a larger event is an error")

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        return checked_url(value, ("http", "https"))
