"""The options of Pulsar sources and destinations."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult

from pydantic import AfterValidator, Field, model_validator

from dataflare.sdk.brokers.config import TlsBrokerConfig
from dataflare.sdk.brokers.rows import PLACEHOLDER, Shape, pieces
from dataflare.sdk.messages.config import MessageOptions, SourceMessageOptions
from dataflare.sdk.tls import Tls

TOPIC = r"^((persistent://)?[^/\s]+/[^/\s]+/)?[^/\s]+$"
"""A name that the client takes: a topic of public/default, or with its tenant and its namespace."""


def _topic(value: str) -> str:
    if value.startswith("non-persistent://"):
        raise ValueError("the messages of a topic that is not persistent are on no disk")
    if not re.match(TOPIC, PLACEHOLDER.sub("x", value)):
        raise ValueError(
            f"{value!r} cannot be a topic: orders, or persistent://tenant/namespace/orders"
        )
    return value  # fmt: skip


Topic = Annotated[str, AfterValidator(_topic)]


class PulsarConfig(TlsBrokerConfig):
    """How to reach the broker; the same for sources and destinations."""

    ports = MappingProxyType({"pulsar": 6650, "pulsar+ssl": 6651})

    connection: str = Field(
        repr=False, description="pulsar://host:6650, or pulsar+ssl://host:6651 for TLS"
    )
    token: str | None = Field(None, repr=False, min_length=1, description="logs in by a token")
    tls: Tls | None = Field(
        None,
        description="of pulsar+ssl: {ca, certificate, key}; without `token` the certificate logs in",
    )

    @classmethod
    def fits(cls, url: SplitResult) -> bool:
        return super().fits(url) and url.username is None


class PulsarSourceConfig(SourceMessageOptions, PulsarConfig):
    """Options of a `pulsar` source."""

    topic: Topic | list[Topic] = Field(
        description="the name of a topic, or a list of names; all partitions of each are read"
    )
    subscription: str = Field(
        min_length=1,
        description="the name of the subscription, which is made if it is not there: the broker keeps messages until "
        "it has acknowledged them, after the checkpoint that has them",
    )
    shared: bool = Field(
        False,
        description="whether other consumers of the subscription get messages too. They come in any order then, and one "
        "that is delivered again is known by its id",
    )
    start: Literal["earliest", "latest"] = Field(
        "earliest",
        description="where a subscription that is made begins: with the oldest message that is there, or with those "
        "from now on",
    )
    stop: Literal["latest"] | None = Field(
        None,
        description="latest: read to the messages that are there when the run starts, and end. By default the source has "
        "no end",
    )
    prefetch: int = Field(
        10_000,
        ge=1,
        le=50_000,
        description="how many messages may wait to be read; shared: how many may be without an acknowledgement; when half "
        "are, a checkpoint is taken",
    )
    window: int = Field(
        1_000,
        ge=0,
        description="shared: how many ids of acknowledged messages are remembered; at least as many as producers put "
        "into a batch",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = self.topics
        if not names or len(set(names)) != len(names):
            raise ValueError("'topic': expected a name, or a list of different names")
        if self.key_format == "json":
            raise ValueError(
                "'key_format' cannot be json: the columns of keys are not known before messages are received. Use text, and "
                "read it in a `map` step"
            )
        if self.shared and self.stop is not None:
            raise ValueError(
                "'stop' has no effect where the messages are shared: others may read the last one"
            )
        if not self.shared and "window" in self.model_fields_set:
            raise ValueError("'window' has no effect unless the messages are shared")
        return self

    @property
    def topics(self) -> list[str]:
        return [self.topic] if isinstance(self.topic, str) else self.topic


class PulsarDestinationConfig(MessageOptions, PulsarConfig):
    """Options of a `pulsar` destination."""

    topic: Topic = Field(
        description="the topic to write; {column} in it is the value of a column",
    )
    key: str | None = Field(
        None,
        min_length=1,
        description="the column whose value is the key of a message; messages with equal keys are in one partition",
    )
    headers: dict[str, str] = Field(
        default_factory=dict,
        description="by property of a message, the column with its value: {trace-id: trace}",
    )

    @model_validator(mode="after")
    def _keys_are_text(self) -> Self:
        if self.key_format is not None:
            raise ValueError("'key_format' has no effect: a key is the text of a column")
        return self

    @property
    def shape(self) -> Shape:
        rest = self.format in ("raw", "text")
        return Shape(
            pieces(self.topic), id=self.key, headers=self.headers, only_rest=rest, names_trace=True
        )
