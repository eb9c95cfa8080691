"""Messages that are named fields of text."""

from __future__ import annotations

import datetime as dt
import json

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from dataflare.formats.messages.fields import FieldsDecoder, columns_of, pack, unpack
from dataflare.model.types import Schema

SCHEMA = Schema.of({"n": "int64", "text": "string", "day": "date", "raw": "binary"})


def values(*messages: list[tuple[bytes, bytes]] | None) -> pl.Series:
    return pl.Series([None if m is None else pack(m) for m in messages], dtype=pl.Binary)


def test_fields_have_the_types_of_the_columns() -> None:
    decoded = FieldsDecoder(SCHEMA).decode(
        values(
            [(b"n", b"12"), (b"text", b""), (b"day", b"2026-03-01"), (b"raw", b"\xff")],
            None,
            [(b"n", b""), (b"text", "ß".encode())],
        )
    )
    assert decoded.rows.rows() == [
        (12, "", dt.date(2026, 3, 1), b"\xff"),
        (None, "ß", None, None),
    ]
    assert decoded.message.to_list() == [0, 2]
    assert not decoded.bad.height


def test_what_does_not_fit_is_bad_alone_and_shown_whole() -> None:
    decoded = FieldsDecoder(SCHEMA).decode(
        values([(b"n", b"1")], [(b"n", b"one"), (b"raw", b"\xff")], [(b"text", b"\xff")])
    )
    assert decoded.message.to_list() == [0]
    assert decoded.bad["message"].to_list() == [1, 2]
    assert decoded.bad["code"].to_list() == ["E0501", "E0504"]
    assert json.loads(decoded.bad["value"][0]) == {"n": "one", "raw": "base64:/w=="}


def test_fields_that_the_columns_lack_are_new_ones() -> None:
    decoded = FieldsDecoder(SCHEMA).decode(values([(b"n", b"1")], [(b"more", b"x"), (b"n", b"2")]))
    assert decoded.new_fields is not None
    assert dict(decoded.new_fields.fields) == {"more": [1]}
    learned = decoded.new_fields.columns([decoded.new_fields.sample])
    assert "more" in columns_of(pl.Series(dtype=pl.Binary), SCHEMA, learned)


def test_of_a_field_that_is_twice_the_first_value_is_read_and_told() -> None:
    decoded = FieldsDecoder(SCHEMA).decode(values([(b"n", b"1"), (b"n", b"2")]))
    assert decoded.rows["n"].to_list() == [1]
    assert sum(decoded.warnings.values()) == 1


@given(st.lists(st.lists(st.tuples(st.binary(max_size=5), st.binary(max_size=9)), max_size=4)))
def test_bytes_of_any_kind_give_a_row_or_a_bad_message(
    messages: list[list[tuple[bytes, bytes]]],
) -> None:
    series = values(*messages)
    assert [unpack(value) for value in series] == messages
    decoded = FieldsDecoder(SCHEMA).decode(series)
    found = [*decoded.message.to_list(), *decoded.bad["message"].to_list()]
    assert sorted(found) == list(range(len(messages)))
