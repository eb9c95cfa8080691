"""The messages of a chunk, decoded on the worker pool."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import polars as pl
from msgspec.structs import replace

from dataflare.formats.messages.contract import Decoded, bad_messages, sorted_bad
from dataflare.formats.messages.envelope import Envelope
from dataflare.model.new_fields import NewFields
from dataflare.model.progress import Position
from dataflare.sdk.messages.letters import letter_rows
from dataflare.sdk.source import Chunk, InMemory, Salvaged


class Decoder:
    """Decodes the messages of one reader, on any thread. warnings: those of the reader, which it adds to."""

    def __init__(self, envelope: Envelope, warnings: dict[str, int]) -> None:
        self.envelope, self._warnings = envelope, warnings
        self._lock = threading.Lock()

    def decode(self, messages: pl.DataFrame) -> Decoded:
        with self._lock:
            decoded = self.envelope.decode(messages)
            for text, number in decoded.warnings.items():
                self._warnings[text] = self._warnings.get(text, 0) + number
        return decoded


class MessageBatch(ABC):
    """The messages of one chunk, decoded once. Rows are numbered as the messages are; where a message gives no row
    they are read by `salvage`."""

    num_bytes: int
    parents: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """How many messages it has."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._once = decoder, threading.Lock()
        self._decoded: Decoded | None = None
        self._messages = 0

    @abstractmethod
    def frame(self) -> pl.DataFrame:
        """The messages as an `Envelope` takes them, the same each time."""

    @abstractmethod
    def place(self, message: int) -> str:
        """Where a message is, to show to the user."""

    def faults(self) -> Mapping[int, str]:
        """By message, why what is told of it does not fit: such a message is a row error (E0501)."""
        return {}

    def chunk(self, position: Position, key: int) -> Chunk:
        at_once = self._decoder.envelope.decodes_at_once
        return Chunk(
            scan=self.scan,
            position=position,
            key=key,
            num_bytes=self.num_bytes,
            rows=self.count,
            salvage=self.salvage,
            place=self.place,
            new_fields=self.new_fields,
            watched=lambda: (self.scan(), self.new_fields()),
            originals=self.originals,
            in_memory=InMemory(len(self), self.rows) if at_once else None,
            parents=self.parents,
        )

    def _rows(self) -> Decoded:
        with self._once:
            if self._decoded is None:
                frame = self.frame()
                self._messages = frame.height
                decoded, faults = self._decoder.decode(frame), self.faults()
                self._decoded = _without(decoded, frame["value"], faults) if faults else decoded
            return self._decoded

    def rows(self) -> pl.DataFrame:
        """Raises a Polars error where they are not one for each message, or one is bad: it may give a delete beside."""
        decoded = self._rows()
        if decoded.message.len() != self._messages or decoded.bad.height:
            raise pl.exceptions.ComputeError("some messages give no row")
        return decoded.rows

    def scan(self) -> pl.LazyFrame:
        return self.rows().lazy()

    def count(self) -> int:
        return self._rows().rows.height

    def salvage(self) -> Salvaged:
        decoded = self._rows()
        rows = decoded.message.cast(pl.Int64).rename("row")
        return Salvaged(decoded.rows, rows, decoded.bad_rows(self.place))

    def new_fields(self) -> NewFields | None:
        return self._rows().new_fields

    def originals(self, messages: Sequence[int]) -> Sequence[str]:
        """These messages as dead letters hold them, which can be decoded again (see `decoded_again`)."""
        faults = self.faults()
        return letter_rows(
            self.frame()[list(messages)],
            self._decoder.envelope,
            [number in faults for number in messages],
        )


def _without(decoded: Decoded, values: pl.Series, faults: Mapping[int, str]) -> Decoded:
    """What was decoded, with these messages among the bad ones."""
    places = pl.Series([*faults], dtype=pl.UInt32)
    kept = ~decoded.message.is_in(places.implode())
    others = decoded.bad.filter(~pl.col("message").is_in([*faults]))
    return replace(
        decoded,
        rows=decoded.rows.filter(kept),
        message=decoded.message.filter(kept),
        bad=sorted_bad([others, bad_messages(values, places, "E0501", [*faults.values()])]),
    )
