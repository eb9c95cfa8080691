"""Read the messages of one split: a connector's feed, as chunks that are decoded on the worker pool.

Always true: a chunk has the messages in the order in which the feed gave them; its position is behind the last of
them; each message gives rows or is a bad one, never neither.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.formats.messages.envelope import Envelope
from dataflare.model.progress import Position
from dataflare.model.types import Schema
from dataflare.sdk.messages.batches import Decoder, MessageBatch
from dataflare.sdk.source import Chunk, ChunkReader, EndOfSplit
from dataflare.sdk.tracing import parents_of

_CHUNK_BYTES = 2 << 20
_MESSAGES_FIRST, _MESSAGES_MAX = 1_000, 10_000
_BOUNDED_HOLD_S = 0.02
NUMBER = "number"
"""In a position, how many messages were read before it."""


class Message(Struct, frozen=True):
    """One message. value: its bytes; None for a message without a value. told: what the broker says of it beside
    its value, by the names of `BrokerSource.told`; only what is used must be there. place: where it is, to show
    to the user. num_bytes: about how much memory it takes. fault: why what is told does not fit its type; such a
    message is a row error."""

    value: bytes | None
    told: Mapping[str, Any]
    place: str
    num_bytes: int
    fault: str | None = None


class Feed(ABC):
    """The messages of one split, taken from the broker in the order in which they become rows."""

    bounded: bool = False
    """Whether it has an end."""

    @abstractmethod
    async def take(self, most: int, wait_s: float | None) -> Sequence[Message]:
        """The next messages, at most so many, and waits until there is one: wait_s: for so long at most, and
        then gives none; None: without a limit. Raises EndOfSplit when nothing will follow."""

    @abstractmethod
    def position(self) -> Position:
        """Behind the last message that was taken."""

    @property
    def wants_checkpoint(self) -> bool:
        """Whether it will soon give nothing until a checkpoint has what it gave."""
        return False

    @property
    def warnings(self) -> Mapping[str, int]:
        """As those of a `SplitReader`."""
        return {}

    async def aclose(self) -> None:
        """Take no more."""


class MessageReader(ChunkReader):
    """Reads a feed. envelope: makes rows of messages. told: the types of what the broker says of a message.
    number: how many messages of the split came before; rows are known by their numbers, whatever the chunks."""

    def __init__(self, feed: Feed, envelope: Envelope, told: Schema, number: int) -> None:
        self._feed, self.told, self._number = feed, told, number
        self.named = tuple(envelope.reads)
        self._warnings: dict[str, int] = {}
        self.decoder = Decoder(envelope, self._warnings)
        self._messages_max = _MESSAGES_FIRST

    @property
    def warnings(self) -> Mapping[str, int]:  # type: ignore[override]
        merged = dict(self._warnings)
        for text, number in self._feed.warnings.items():
            merged[text] = merged.get(text, 0) + number
        return merged

    @property
    def wants_checkpoint(self) -> bool:
        return self._feed.wants_checkpoint

    def position(self) -> Position:
        return Position({**self._feed.position().value, NUMBER: self._number})

    async def read_chunk(self) -> Chunk:
        messages = list(await self._feed.take(self._messages_max, None))
        hold_s = max(self.hold_s, _BOUNDED_HOLD_S) if self._feed.bounded else self.hold_s
        if hold_s and len(messages) < self._messages_max and not self.wants_checkpoint:
            try:
                messages += await self._feed.take(self._messages_max - len(messages), hold_s)
            except EndOfSplit:
                # The feed says so again when it is asked for the next chunk.
                pass
        return self._chunk(messages)

    async def aclose(self) -> None:
        await self._feed.aclose()

    def _chunk(self, messages: Sequence[Message]) -> Chunk:
        batch = FeedBatch(self, messages)
        average = batch.num_bytes // max(1, len(messages)) + 1
        size = _CHUNK_BYTES if self.bytes_max is None else min(_CHUNK_BYTES, self.bytes_max)
        self._messages_max = max(1, min(_MESSAGES_MAX, size // average))
        first, self._number = self._number, self._number + len(messages)
        return batch.chunk(self.position(), first)


class FeedBatch(MessageBatch):
    def __init__(self, reader: MessageReader, messages: Sequence[Message]) -> None:
        super().__init__(reader.decoder)
        self._reader, self._given = reader, messages
        self.num_bytes = sum(message.num_bytes for message in messages)
        self.parents = parents_of(messages, _headers)

    def __len__(self) -> int:
        return len(self._given)

    def frame(self) -> pl.DataFrame:
        return frame_of(self._given, self._reader.told, self._reader.named)

    def place(self, message: int) -> str:
        return self._given[message].place

    def faults(self) -> Mapping[int, str]:
        return {at: m.fault for at, m in enumerate(self._given) if m.fault is not None}


def _headers(message: Message) -> Iterator[tuple[str, Any]]:
    return ((each["key"], each["value"]) for each in message.told.get("headers") or ())


def frame_of(messages: Sequence[Message], told: Schema, named: Sequence[str]) -> pl.DataFrame:
    """The messages as an `Envelope` takes them. named: what is used beside the value; a decoder may ask for headers that
    the broker does not have."""
    columns = [pl.Series("value", [message.value for message in messages], dtype=pl.Binary)]
    for name in (each for each in named if each in told):
        values = [message.told.get(name) for message in messages]
        columns.append(pl.Series(name, values, dtype=told[name].to_polars()))
    return pl.DataFrame(columns)
