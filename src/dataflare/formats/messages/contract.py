"""What decodes the messages of a batch, and what encodes rows to messages.

Always true:
- a message that is not NULL either gives rows or is among the bad ones, never both, never neither;
- what a decoder gives for a message does not depend on the other messages of the batch;
- bytes of any kind raise nothing: they are bad messages. What raises is a system that is away, such as
  a registry, and then no message of the batch is lost.
"""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import polars as pl
from msgspec import Struct

from dataflare.formats.misread import RAW_MAX, raw_text
from dataflare.model.bad_rows import BadRows
from dataflare.model.new_fields import NewFields
from dataflare.model.types import Schema

BAD_SCHEMA = pl.Schema(
    {"message": pl.UInt32(), "code": pl.String(), "error": pl.String(), "value": pl.Binary()}
)
_NO_BAD = BAD_SCHEMA.to_frame()
BASE64_MARK = "base64:"
"""What the text of a bad message begins with if its bytes are not UTF-8."""


class Decoded(Struct, frozen=True):
    """rows: with the decoder's columns. message: for each row, the index in the batch of the message that
    it came from (UInt32, ascending). bad: the messages that gave no row: their index, the code and the
    text of the error, and their bytes, ordered by index. new_fields: the fields that the columns lack;
    its rows are numbered as the messages are. warnings: what users are told at the end, each with a
    number of messages, as a `SplitReader` has them."""

    rows: pl.DataFrame
    message: pl.Series
    bad: pl.DataFrame
    new_fields: NewFields | None = None
    warnings: Mapping[str, int] = MappingProxyType({})

    def bad_rows(self, place_of: Callable[[int], str]) -> BadRows:
        """The bad messages as a source reports them. place_of: where message i is, to show to the user,
        such as 'orders partition 3 offset 812'."""
        messages = self.bad["message"]
        return BadRows(
            pl.DataFrame(
                {
                    "row": messages.cast(pl.Int64),
                    "code": self.bad["code"],
                    "message": self.bad["error"],
                    "raw": pl.Series([bytes_text(each) for each in self.bad["value"]], dtype=pl.String),
                    "place": pl.Series([place_of(each) for each in messages], dtype=pl.String),
                    "neighbours": pl.repeat(None, messages.len(), dtype=pl.String, eager=True),
                }
            )
        )  # fmt: skip


class Decoder(ABC):
    """The decoder of one stream of messages. It may be called by one thread at a time."""

    schema: Schema
    """The columns of the rows."""
    reads: tuple[str, ...] = ()
    """What it needs of a message beside its value, by the names of `envelope`: `headers`."""
    changelog: bool = False
    """Whether its rows have their kind."""
    at_once: bool = False
    """Whether it waits for no system."""

    def is_truncation(self, value: bytes | None) -> bool:
        """Whether a message says that all rows went (TRUNCATE): its reader gives it alone in a batch."""
        return False

    def shown_fields(self, value: bytes) -> Mapping[str, str] | None:
        """What a value has, to show to the user, where its bytes do not say it."""
        return None

    def decode_messages(self, messages: pl.DataFrame) -> Decoded:
        """The same for whole messages, with `value` and the columns of `reads`. A message without a value may
        give a row then."""
        return self.decode(messages["value"])

    @abstractmethod
    def decode(self, values: pl.Series) -> Decoded:
        """The rows of a batch of messages. values: Binary. A NULL (a tombstone) gives no row and is not
        bad. Raises DataFlareError where a system that it needs is away."""


class Encoded(Struct, frozen=True):
    """values: one message for each row (Binary); NULL where the row cannot be encoded. bad: the rows that
    cannot: their index, the code and the text of the error (`value` is NULL). headers: for each row the headers
    that its message must have, as `envelope.HEADERS`; None if the format has none."""

    values: pl.Series
    bad: pl.DataFrame
    headers: pl.Series | None = None


class Encoder(ABC):
    """The encoder of one stream of rows, which all have the columns it was made for. It may be called by
    one thread at a time."""

    @abstractmethod
    def encode(self, rows: pl.DataFrame) -> Encoded:
        """One message for each row. Raises DataFlareError where a system that it needs is away."""


def bad_messages(
    values: pl.Series, places: Sequence[int] | pl.Series, code: str, errors: str | Sequence[str]
) -> pl.DataFrame:
    """Bad messages of a batch. errors: a text for each, or one for all."""
    index = pl.Series("message", places, dtype=pl.UInt32)
    text = (
        pl.repeat(errors, index.len(), dtype=pl.String, eager=True)
        if isinstance(errors, str)
        else pl.Series(errors, dtype=pl.String)
    )
    codes = pl.repeat(code, index.len(), dtype=pl.String, eager=True)
    return pl.DataFrame(
        {"message": index, "code": codes, "error": text, "value": values.gather(index)},
        schema=BAD_SCHEMA,
    )


def no_bad() -> pl.DataFrame:
    return _NO_BAD.clone()


def sorted_bad(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """All bad messages of a batch, by index."""
    parts = [part for part in parts if part.height]
    return pl.concat(parts).sort("message") if parts else no_bad()


def merged_warnings(parts: Sequence[Mapping[str, int]]) -> Mapping[str, int]:
    """The sums by text."""
    total: dict[str, int] = {}
    for part in parts:
        for text, number in part.items():
            total[text] = total.get(text, 0) + number
    return total


def bytes_text(data: bytes | None) -> str:
    """The bytes of a bad message as a dead letter keeps them: the text where they are UTF-8, else base64
    behind a mark; whole up to `RAW_MAX` bytes. A text that begins with the mark is in base64 too."""
    if data is None:
        return ""
    try:
        is_text = not data.decode().startswith(BASE64_MARK)
    except UnicodeDecodeError:
        is_text = False
    if not is_text:
        head = base64.b64encode(data[:RAW_MAX]).decode()
        cut = f"… (cut: the first {RAW_MAX:,} of {len(data):,} bytes)"
        return f"{BASE64_MARK}{head}{cut if len(data) > RAW_MAX else ''}"
    return raw_text(data)


def text_bytes(text: str) -> bytes | None:
    """The bytes that `bytes_text` gave as this text; None where it has only the beginning of them."""
    if not text.startswith(BASE64_MARK):
        data = text.encode()
        return data if len(data) <= RAW_MAX else None
    # A text that is cut has the beginning of `RAW_MAX` bytes and a note, so it is longer than any whole one.
    digits = text.removeprefix(BASE64_MARK)
    return base64.b64decode(digits) if len(digits) <= 4 * -(-RAW_MAX // 3) else None
