"""Messages that are written as base64."""

from __future__ import annotations

import base64

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from dataflare.formats.messages.base64 import Base64Decoder, Base64Encoder
from dataflare.formats.messages.raw import RawDecoder, RawEncoder
from dataflare.model.types import Schema


@given(st.lists(st.binary(max_size=20)))
def test_what_was_encoded_is_decoded(values: list[bytes]) -> None:
    rows = pl.DataFrame({"value": values}, schema={"value": pl.Binary})
    encoded = Base64Encoder(RawEncoder(Schema.of({"value": "binary"}))).encode(rows).values
    assert encoded.to_list() == [base64.b64encode(each) for each in values]
    assert Base64Decoder(RawDecoder()).decode(encoded).rows["value"].to_list() == values


def test_what_is_not_base64_is_bad_with_its_bytes_and_the_others_are_not() -> None:
    values = pl.Series("value", [b"aGk=", b"no!", None, b"/w==", b"eA=="], dtype=pl.Binary)
    for found in (
        Base64Decoder(RawDecoder(text=True)).decode(values),
        Base64Decoder(RawDecoder(text=True)).decode_messages(values.to_frame()),
    ):
        assert found.rows["value"].to_list() == ["hi", "x"]
        assert found.message.to_list() == [0, 4]
        assert found.bad.select("message", "value").rows() == [(1, b"no!"), (3, b"\xff")]
