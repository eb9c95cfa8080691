"""Read the log: blocks of messages, as chunks that are decoded on the worker pool.

Always true: a chunk has the messages of consecutive offsets; its position is behind the last of them. The listener and
the log are closed before the reader is, so the next reader can open both.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl

from dataflare.errors import DataFlareError, SystemError_
from dataflare.formats.messages.envelope import HEADERS, Envelope
from dataflare.model.progress import Position
from dataflare.model.types import Schema
from dataflare.sdk.messages.batches import Decoder, MessageBatch
from dataflare.sdk.push.blocks import Block, Place, messages_of
from dataflare.sdk.push.inbox import Inbox
from dataflare.sdk.push.log import PushLog
from dataflare.sdk.source import Chunk, ChunkReader, EndOfSplit
from dataflare.sdk.threads import in_thread
from dataflare.sdk.tracing import HEADER, parents_of, tracer

_CHUNK_BYTES = 2 << 20
_PARENTS_BLOCKS = 16
"""In so many blocks of a chunk traces are searched."""


class Listener(ABC):
    """The live end towards those who send. Made for one reader; puts what comes into its inbox."""

    @abstractmethod
    async def start(self, inbox: Inbox) -> None:
        """Begin to take messages. Raises SystemError_ (E0614) where it cannot listen."""

    @abstractmethod
    async def aclose(self) -> None:
        """Take no more. What was acknowledged is in the inbox's log."""


class LogReader(ChunkReader):
    """fields: of the log's messages; the first is the value. position: of an earlier reader."""

    resumes = True

    def __init__(
        self,
        open_log: Callable[[], PushLog],
        make_listener: Callable[[], Listener],
        envelope: Envelope,
        fields: Schema,
        position: Position | None,
        *,
        step: str,
        bytes_max: int,
        skips_lost: bool,
        closed: Callable[[], None],
    ) -> None:
        self._open_log, self._make_listener, self._closed = open_log, make_listener, closed
        self._fields, self._step = fields, step
        self._used = {"value", *envelope.reads}
        self._bytes_max, self._skips_lost = bytes_max, skips_lost
        self._position = position
        self._place = Place(0, 0, 0)
        self._inbox: Inbox | None = None
        self._listener: Listener | None = None
        self.warnings: dict[str, int] = {}
        self.decoder = Decoder(envelope, self.warnings)

    def position(self) -> Position:
        assert self._position is not None
        return self._position

    async def start(self) -> None:
        """Open the log, then listen. Raises SystemError_."""
        log = await in_thread(self._open_log)
        try:
            self._place = self._start_in(log)
        except BaseException:
            log.close()
            raise
        self._position = _position(log.id, self._place)
        self._inbox = Inbox(log, self._bytes_max)
        self._inbox.warnings = self.warnings
        self._listener = self._make_listener()
        try:
            await self._listener.start(self._inbox)
        except BaseException:
            await self._stop()
            raise

    def _start_in(self, log: PushLog) -> Place:
        if self._position is None:
            return log.start
        at = self._position.value
        if at["log"] == log.id:
            place = log.check(Place(at["offset"], at["segment"], at["byte"]))
            if place is not None:
                return place
        if not self._skips_lost:
            raise self._lost(log)
        self.warnings["the log that was read before is gone: reading went on in another one"] = 0
        return log.start

    async def read_chunk(self) -> Chunk:
        if self._inbox is None:
            await self.start()
        inbox = self._inbox
        assert inbox is not None
        try:
            while self._place.offset >= inbox.log.end.offset:
                if inbox.failure is not None:
                    raise inbox.failure
                if inbox.ended:
                    raise EndOfSplit
                await inbox.arrived()
                if self.hold_s:
                    await asyncio.sleep(self.hold_s)
            size = _CHUNK_BYTES if self.bytes_max is None else min(_CHUNK_BYTES, self.bytes_max)
            blocks, place = await in_thread(inbox.log.read, self._place, size)
        except DataFlareError:
            await self._stop()
            raise
        self._place, self._position = place, _position(inbox.log.id, place)
        return self._chunk(blocks)

    async def _stop(self) -> None:
        listener, self._listener = self._listener, None
        inbox, self._inbox = self._inbox, None
        if listener is not None:
            await listener.aclose()
        if inbox is not None:
            await inbox.aclose()

    async def aclose(self) -> None:
        await self._stop()
        await in_thread(self._closed)

    def _lost(self, log: PushLog) -> SystemError_:
        return SystemError_(
            f"the log of step '{self._step}' does not have the messages any more that the last run did not read",
            code="E0605",
            step=self._step,
            notes=["its folder was emptied, or belongs to another machine"],
            help="bring the folder back, or set log: {lost: skip} to go on with the oldest message that is there",
        )

    # -- chunks ------------------------------------------------------------------------------------

    def _chunk(self, blocks: Sequence[Block]) -> Chunk:
        rows = self._place.offset - blocks[0].offset
        return Batch(self, blocks, rows).chunk(self.position(), blocks[0].offset)

    def frame(self, blocks: Sequence[Block]) -> pl.DataFrame:
        """The messages of blocks, with the fields that are read of them."""
        messages = [message for block in blocks for message in messages_of(block)]
        columns = []
        for at, field in enumerate(self._fields):
            if field.name not in self._used:
                continue
            # A message that an older version wrote may have fewer fields.
            values = [message[at] if at < len(message) else None for message in messages]
            columns.append(_column(field.name, values, field.type))
        first = blocks[0].offset
        offsets = pl.int_range(first, first + len(messages), dtype=pl.Int64, eager=True)
        return pl.DataFrame([*columns, offsets.alias("offset")])

    def parents(self, blocks: Sequence[Block]) -> tuple[str, ...]:
        """The traces that messages name, where they have a field for it."""
        if HEADER not in self._fields.names or tracer() is None:
            return ()
        at = self._fields.names.index(HEADER)
        messages = [message for block in blocks[:_PARENTS_BLOCKS] for message in messages_of(block)]
        return parents_of(messages, lambda m: [(HEADER, m[at])] if at < len(m) else None)

    def place_of(self, offset: int) -> str:
        return f"message {offset:,} of the log of '{self._step}'"


class Batch(MessageBatch):
    def __init__(self, reader: LogReader, blocks: Sequence[Block], messages: int) -> None:
        super().__init__(reader.decoder)
        self._reader, self._blocks, self._number = reader, blocks, messages
        self.num_bytes = sum(len(block.body) for block in blocks)
        self.parents = reader.parents(blocks)

    def __len__(self) -> int:
        return self._number

    def frame(self) -> pl.DataFrame:
        return self._reader.frame(self._blocks)

    def place(self, message: int) -> str:
        return self._reader.place_of(self._blocks[0].offset + message)


def _position(log: str, place: Place) -> Position:
    return Position(
        {"log": log, "offset": place.offset, "segment": place.segment, "byte": place.byte}
    )


def _column(name: str, values: list[Any], type_: Any) -> pl.Series:
    dtype = type_.to_polars()
    if isinstance(dtype, pl.Datetime):
        return pl.Series(name, values, pl.Int64).cast(dtype)
    if type_ == HEADERS:
        values = [
            None if pairs is None else [{"key": key, "value": value} for key, value in pairs]
            for pairs in values
        ]
    return pl.Series(name, values, dtype)
