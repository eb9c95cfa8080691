"""The options of `websocket` sources and destinations."""

from __future__ import annotations

from typing import Any, Self

import orjson
from pydantic import Field, field_validator, model_validator

from dataflare.model.units import Duration, Size
from dataflare.sdk.messages.config import ValueOptions, ValueSourceOptions
from dataflare.sdk.push.client_config import ClientConfig, checked_url, refuse_headers
from dataflare.sdk.push.config import LogConfig


class WebsocketConfig(ClientConfig):
    """What sources and destinations have."""

    url: str = Field(description="ws://host/path or wss://host/path")
    subprotocols: list[str] = Field(
        default_factory=list, description="offered to the server, the best first"
    )
    heartbeat: Duration = Field(
        20.0,
        gt=0,
        description="how often to ask a silent server whether it is there; without an answer in half of that "
        "time the connection is broken",
    )

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        return checked_url(value, ("ws", "wss"))


class WebsocketSourceConfig(WebsocketConfig, ValueSourceOptions, LogConfig):
    subscribe: list[str | dict[str, Any]] = Field(
        default_factory=list,
        repr=False,
        description="messages that are sent after each connect: texts, or maps that are sent as JSON",
    )
    end: bool = Field(
        False,
        description="the source ends when the server closes the connection as it should (1000); without it, it connects again",
    )
    max_message: Size = Field(4 << 20, ge=1, description="a larger message breaks the connection")

    @property
    def greetings(self) -> list[str]:
        """What is sent after each connect."""
        return [
            each if isinstance(each, str) else orjson.dumps(each).decode()
            for each in self.subscribe
        ]


class WebsocketDestinationConfig(WebsocketConfig, ValueOptions):
    """Options of a `websocket` destination."""

    reply: str = Field(
        "",
        description="the message that the server sends for each one that it has taken, such as OK; other messages are "
        "passed over. A message without it is sent again over the next connection",
    )

    @model_validator(mode="after")
    def _no_headers(self) -> Self:
        refuse_headers(self)
        return self
