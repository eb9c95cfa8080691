"""The options of SQS sources and destinations."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from dataflare.model.units import Duration
from dataflare.sdk.aws.options import AwsOptions, SendingOptions
from dataflare.sdk.brokers.rows import Shape, pieces
from dataflare.sdk.messages.config import ValueOptions, ValueSourceOptions

_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}(\.fifo)?")
_ATTRIBUTE = re.compile(r"(?!(?i:aws\.|amazon\.))(?!\.)(?!.*\.\.)[A-Za-z0-9_.-]{1,256}(?<!\.)")
_BINARY = ("avro", "protobuf")
Encoding = Literal["text", "base64"]
_ENCODING = (
    "what the body is, which SQS has as text: text: the message itself, in UTF-8; base64: the message as base64, as "
    "bytes need"
)


def queue_name(queue: str) -> str:
    """The name in a name or a URL."""
    return queue.rstrip("/").rpartition("/")[2]


def check_queue(queue: str) -> None:
    """Raises ValueError for what is neither a name nor a URL."""
    if "/" in queue and not queue.startswith(("http://", "https://")):
        raise ValueError(f"{queue!r} is neither the name of a queue nor its URL")
    if not _NAME.fullmatch(queue_name(queue)):
        raise ValueError(
            f"{queue!r} cannot be a queue: a name has up to 80 letters, digits, - and _, and may end in .fifo"
        )


class SqsSourceConfig(ValueSourceOptions, AwsOptions):
    """Options of an `sqs` source."""

    queue: str | list[str] = Field(description="the name or the URL of a queue, or a list of them")
    stop: Literal["latest"] | None = Field(
        None,
        description="latest: read about as many messages as are there when the run starts, and end. By default the source "
        "has no end",
    )
    encoding: Encoding = Field("text", description=_ENCODING)
    id: str = Field(
        "message_id",
        min_length=1,
        description="what tells a message from all others, so that one that is delivered again is left out: message_id, "
        "the id that SQS gives; deduplication_id of a FIFO queue, within its group; or the name of a message attribute",
    )
    visibility: Duration = Field(
        60.0,
        ge=2,
        le=43_200,
        description="how long other consumers do not see a message that was received. It is extended as long as the run "
        "works on the message",
    )
    prefetch: int = Field(
        10_000,
        ge=1,
        le=100_000,
        description="how many messages may be received and not deleted; when half are, a checkpoint is taken",
    )
    window: int = Field(10_000, ge=0, description="how many ids of deleted messages are remembered")

    @field_validator("queue")
    @classmethod
    def _names(cls, value: str | list[str]) -> str | list[str]:
        given = [value] if isinstance(value, str) else value
        for each in given:
            check_queue(each)
        names = [queue_name(each) for each in given]
        if not names or len(set(names)) != len(names):
            raise ValueError("expected a queue, or a list of different queues")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.id == "deduplication_id":
            plain = [name for name in self.queues if not name.endswith(".fifo")]
            if plain:
                raise ValueError(
                    f"'id' cannot be deduplication_id: queue '{plain[0]}' is not a FIFO queue, whose name ends in .fifo"
                )
        return self

    @property
    def queues(self) -> dict[str, str]:
        """By name, the name or URL that was given."""
        given = [self.queue] if isinstance(self.queue, str) else self.queue
        return {queue_name(each): each for each in given}


class SqsDestinationConfig(ValueOptions, SendingOptions):
    """Options of an `sqs` destination."""

    queue: str = Field(description="the name or the URL of a queue")
    encoding: Encoding = Field("text", description=_ENCODING)
    id: str | None = Field(
        None,
        min_length=1,
        description="the column whose value tells a row from all others. On a FIFO queue, which needs it, it becomes the "
        "deduplication id, by which SQS leaves out a message that comes again within 5 minutes; else the attribute `id`",
    )
    group: str | None = Field(
        None,
        min_length=1,
        description="the message group, which a FIFO queue needs: messages of a group stay in order; {column} in it is the "
        "value of a column",
    )
    headers: dict[str, str] = Field(
        default_factory=dict,
        description="by message attribute, the column with its value: {trace-id: trace}",
    )

    @field_validator("queue")
    @classmethod
    def _name(cls, value: str) -> str:
        check_queue(value)
        return value

    @field_validator("headers")
    @classmethod
    def _attributes(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not _ATTRIBUTE.fullmatch(name):
                raise ValueError(
                    f"{name!r} cannot be the name of a message attribute: it has letters, digits, _, - and ."
                )
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.value_format in _BINARY and self.encoding == "text":
            raise ValueError(f"format: {self.value_format} has bytes, and needs encoding: base64")
        if self.is_fifo and (self.id is None or self.group is None):
            raise ValueError("a FIFO queue needs 'id' and 'group'")
        if not self.is_fifo:
            if self.group is not None:
                raise ValueError("'group' has no effect: the name of a FIFO queue ends in .fifo")
            if self.id is not None and "id" in self.headers:
                raise ValueError("'id' and the header id would be one message attribute")
        return self

    @property
    def name(self) -> str:
        return queue_name(self.queue)

    @property
    def is_fifo(self) -> bool:
        return self.name.endswith(".fifo")

    @property
    def shape(self) -> Shape:
        rest = self.format in ("raw", "text")
        return Shape(
            pieces(self.group or "-"),
            id=self.id,
            headers=self.headers,
            only_rest=rest,
            names_trace=True,
        )
