"""The options of MQTT sources and destinations."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator, model_validator

from dataflare.model.units import Duration
from dataflare.sdk.brokers.config import TlsBrokerConfig
from dataflare.sdk.brokers.rows import Shape, pieces
from dataflare.sdk.messages.config import MessageOptions, SourceMessageOptions
from dataflare.sdk.tls import Tls


class MqttConfig(TlsBrokerConfig):
    """How to reach the broker; the same for sources and destinations."""

    ports = MappingProxyType({"mqtt": 1883, "mqtts": 8883})
    keyless = "messages of MQTT"

    connection: str = Field(
        repr=False, description="mqtt://user:password@host:1883, or mqtts:// for TLS"
    )
    tls: Tls | None = Field(None, description="of mqtts: {ca, certificate, key}")
    qos: Literal[1, 2] = Field(1, description="the quality of service of messages")

    @property
    def host(self) -> str:
        return urlsplit(self.connection).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.connection)
        return parts.port or self.ports[parts.scheme]

    @property
    def place(self) -> str:
        return f"the MQTT broker at {self.server}"

    @property
    def login(self) -> tuple[str, str | None] | None:
        parts = urlsplit(self.connection)
        if parts.username is None:
            return None
        return unquote(parts.username), None if parts.password is None else unquote(parts.password)


class MqttSourceConfig(SourceMessageOptions, MqttConfig):
    """Options of an `mqtt` source."""

    topic: str | list[str] = Field(
        description="a topic, which may have wildcards: plant/+/temperature, plant/#; or a list of topics"
    )
    client_id: str = Field(
        min_length=1,
        max_length=255,
        description="the name of the session that the broker keeps; no other client may have it, and another name is "
        "another session",
    )
    session_expiry: Duration = Field(
        7 * 86_400.0,
        gt=0,
        description="how long the broker keeps messages for this session while no run is connected",
    )
    id: str | None = Field(
        None,
        min_length=1,
        description="the user property that tells a message from all others, so that one that is delivered again is left "
        "out; without it a message may come twice",
    )
    prefetch: int = Field(
        20,
        ge=1,
        le=65_535,
        description="how many messages may be without an acknowledgement; when half are, a checkpoint is taken. The broker "
        "must allow as many (mosquitto: max_inflight_messages, by default 20)",
    )
    window: int = Field(
        1_000, ge=0, description="how many ids of acknowledged messages are remembered"
    )

    @field_validator("topic")
    @classmethod
    def _topics(cls, value: str | list[str]) -> str | list[str]:
        for each in [value] if isinstance(value, str) else value:
            if (
                not re.fullmatch(r"(?:[^+#\0]*|\+|#)(?:/(?:[^+#\0/]*|\+))*(?:/#)?", each)
                or not each
            ):
                raise ValueError(f"{each!r} cannot be a topic")
        if not value:
            raise ValueError("expected at least one topic")
        return value

    @property
    def topics(self) -> list[str]:
        return [self.topic] if isinstance(self.topic, str) else self.topic


class MqttDestinationConfig(MessageOptions, MqttConfig):
    """Options of an `mqtt` destination."""

    topic: str = Field(
        min_length=1, description="the topic to write; {column} in it is the value of a column"
    )
    id: str | None = Field(
        None,
        min_length=1,
        description="the column whose value tells a row from all others; it becomes the user property `id`",
    )
    headers: dict[str, str] = Field(
        default_factory=dict, description="by user property, the column with its value"
    )
    retain: bool = Field(
        False, description="the broker keeps the last message of each topic for later subscribers"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if set("+#") & set(self.topic):
            raise ValueError(f"{self.topic!r} cannot be the topic of a message")
        if self.id is not None and "id" in self.headers:
            raise ValueError("the user property 'id' is given twice")
        return self

    @property
    def shape(self) -> Shape:
        rest = self.format in ("raw", "text")
        return Shape(
            pieces(self.topic), id=self.id, headers=self.headers, only_rest=rest, names_trace=True
        )
