"""The messages of a chunk, decoded on the worker pool."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

import polars as pl

from dataflare.formats.messages.contract import Decoded
from dataflare.formats.messages.envelope import Envelope
from dataflare.model.new_fields import NewFields
from dataflare.model.progress import Position
from dataflare.sdk.source import Chunk, Salvaged


class Decoder:
    """Decodes the messages of one reader, on any thread. warnings: those of the reader, which it adds to."""

    def __init__(self, envelope: Envelope, warnings: dict[str, int]) -> None:
        self._envelope, self._warnings = envelope, warnings
        self._lock = threading.Lock()

    def decode(self, messages: pl.DataFrame) -> Decoded:
        with self._lock:
            decoded = self._envelope.decode(messages)
            for text, number in decoded.warnings.items():
                self._warnings[text] = self._warnings.get(text, 0) + number
        return decoded


class MessageBatch(ABC):
    """The messages of one chunk, decoded once. Rows are numbered as the messages are; where a message gives no row
    they are read by `salvage`."""

    num_bytes: int

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._once = decoder, threading.Lock()
        self._decoded: Decoded | None = None
        self._messages = 0

    @abstractmethod
    def frame(self) -> pl.DataFrame:
        """The messages as an `Envelope` takes them. Called once."""

    @abstractmethod
    def place(self, message: int) -> str:
        """Where a message is, to show to the user."""

    def chunk(self, position: Position, key: int) -> Chunk:
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
        )

    def _rows(self) -> Decoded:
        with self._once:
            if self._decoded is None:
                frame = self.frame()
                self._messages = frame.height
                self._decoded = self._decoder.decode(frame)
            return self._decoded

    def scan(self) -> pl.LazyFrame:
        """The rows. Raises a Polars error where they are not one for each message."""
        decoded = self._rows()
        if decoded.message.len() != self._messages:
            raise pl.exceptions.ComputeError("some messages give no row")
        return decoded.rows.lazy()

    def count(self) -> int:
        return self._rows().rows.height

    def salvage(self) -> Salvaged:
        decoded = self._rows()
        rows = decoded.message.cast(pl.Int64).rename("row")
        return Salvaged(decoded.rows, rows, decoded.bad_rows(self.place))

    def new_fields(self) -> NewFields | None:
        return self._rows().new_fields
