"""Messages that are taken as they are: one column of bytes or of text."""

from __future__ import annotations

import polars as pl

from dataflare.errors import ConfigError
from dataflare.formats.messages.contract import (
    Decoded,
    Decoder,
    Encoded,
    Encoder,
    bad_messages,
    no_bad,
)
from dataflare.model.types import BINARY, STRING, Schema

NOT_UTF8 = "the message is not valid UTF-8"


class RawDecoder(Decoder):
    """column: the name of the only column. text: it is a string; bytes that are not UTF-8 are bad."""

    at_once = True

    def __init__(self, column: str = "value", *, text: bool = False) -> None:
        self.schema = Schema.of([(column, STRING if text else BINARY)])
        self._column, self._text = column, text

    def decode(self, values: pl.Series) -> Decoded:
        places = values.is_not_null().arg_true().cast(pl.UInt32).alias("message")
        found = values.drop_nulls().alias(self._column)
        if not self._text:
            return Decoded(found.to_frame(), places, no_bad())
        try:
            return Decoded(found.cast(pl.String).to_frame(), places, no_bad())
        except pl.exceptions.PolarsError:
            is_good = pl.Series([_is_text(each) for each in found], dtype=pl.Boolean)
        bad = bad_messages(values, places.filter(~is_good), "E0504", NOT_UTF8)
        texts = found.filter(is_good).cast(pl.String)
        return Decoded(texts.to_frame(), places.filter(is_good), bad)


class RawEncoder(Encoder):
    """The only column of the rows, bytes or text; NULL is a message without a value."""

    def __init__(self, schema: Schema, step: str | None = None) -> None:
        if len(schema) != 1 or not (
            schema.fields[0].type.is_text or schema.fields[0].type == BINARY
        ):
            shown = ", ".join(f"{field.name}: {field.type}" for field in schema)
            raise ConfigError(
                f"the format raw writes one column of bytes or text, and the rows have {shown or 'none'}",
                code="E0420",
                step=step,
                help="select one column before, or choose another format, such as json",
            )  # fmt: skip
        self._column = schema.names[0]

    def encode(self, rows: pl.DataFrame) -> Encoded:
        return Encoded(rows[self._column].cast(pl.Binary), no_bad())


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
