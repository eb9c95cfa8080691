"""Messages as dead letters hold them, and such messages decoded again.

A letter has the bytes of the value under `raw` (see `contract.bytes_text`), and under `metadata` what the source used of
the message beside its value. So a message is decoded again without the system that it came from. Where the bytes say
nothing to a user, `fields` shows what is in them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import polars as pl

from dataflare.formats.messages.contract import bytes_text
from dataflare.formats.messages.envelope import Envelope
from dataflare.formats.row_text import row_text
from dataflare.formats.text_write import python_rows
from dataflare.model.types import BINARY, Field, Schema

RAW, METADATA, FIELDS = "raw", "metadata", "fields"


class SupportsMessages(ABC):
    """A source of messages, whose dead letters hold them."""

    places_differ: ClassVar[bool] = False
    """Whether a message has the same place in each run, and no other message has it."""

    @abstractmethod
    async def made_envelope(self) -> Envelope:
        """What makes rows of messages; always the same. May ask the system for some messages."""

    @abstractmethod
    def told_of_messages(self) -> Schema:
        """What its system says of a message beside its value. No I/O."""


def letter_rows(
    messages: pl.DataFrame, envelope: Envelope, faulty: Sequence[bool]
) -> Sequence[str]:
    """Messages as the rows of dead letters, as JSON. messages: as the envelope takes them. faulty: for each,
    whether what is told of it cannot be read; its letter has no metadata."""
    reads = envelope.reads
    values = messages["value"]
    named = sorted(reads.intersection(messages.columns))
    told = python_rows(messages.select(named)) if named else [{}] * values.len()
    rows: list[str] = []
    for value, metadata, is_faulty in zip(values, told, faulty, strict=True):
        row: dict[str, Any] = {RAW: None if value is None else bytes_text(value)}
        if value is not None and (fields := envelope.value.shown_fields(value)) is not None:
            row[FIELDS] = fields
        if metadata and not is_faulty:
            row[METADATA] = metadata
        rows.append(row_text(row))
    return rows


async def columns_read(source: SupportsMessages) -> Schema:
    """What the rows of a source need of a message: its value first."""
    reads = (await source.made_envelope()).reads
    told = (field for field in source.told_of_messages() if field.name in reads)
    return Schema((Field("value", BINARY), *told))
