"""Messages whose bytes are written as base64, for brokers whose messages are text."""

from __future__ import annotations

import polars as pl

from dataflare.formats.messages.contract import (
    Decoded,
    Decoder,
    Encoded,
    Encoder,
    bad_messages,
    sorted_bad,
)

NOT_BASE64 = "the message is not base64"


class Base64Decoder(Decoder):
    """inner: decodes the bytes."""

    def __init__(self, inner: Decoder) -> None:
        self._inner = inner
        self.schema, self.reads, self.at_once = inner.schema, inner.reads, inner.at_once

    def decode_messages(self, messages: pl.DataFrame) -> Decoded:
        values = messages["value"]
        plain = _plain(values)
        found = self._inner.decode_messages(messages.with_columns(plain))
        return _without(found, values, values.is_not_null() & plain.is_null())

    def decode(self, values: pl.Series) -> Decoded:
        plain = _plain(values)
        return _without(self._inner.decode(plain), values, values.is_not_null() & plain.is_null())


def _plain(values: pl.Series) -> pl.Series:
    return values.bin.decode("base64", strict=False).alias(values.name)


def _without(found: Decoded, values: pl.Series, is_bad: pl.Series) -> Decoded:
    """Without what came of messages that are not base64, which are bad."""
    if not is_bad.any():
        return found
    places = is_bad.arg_true().cast(pl.UInt32)
    stays = ~found.message.is_in(places.implode())
    others = found.bad.filter(~pl.col("message").is_in(places.implode()))
    bad = sorted_bad([others, bad_messages(values, places, "E0504", NOT_BASE64)])
    return Decoded(
        found.rows.filter(stays),
        found.message.filter(stays),
        bad,
        found.new_fields,
        found.warnings,
    )


class Base64Encoder(Encoder):
    """inner: encodes to bytes."""

    def __init__(self, inner: Encoder) -> None:
        self._inner = inner

    def encode(self, rows: pl.DataFrame) -> Encoded:
        made = self._inner.encode(rows)
        return Encoded(made.values.bin.encode("base64").cast(pl.Binary), made.bad, made.headers)
