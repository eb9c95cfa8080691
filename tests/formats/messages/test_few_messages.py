"""Few JSON messages are read and written without a query: to the same values, and the same bytes."""

from __future__ import annotations

import math
import struct

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.formats.messages.json import JsonDecoder, JsonEncoder
from dataflare.formats.messages.json_few import FewObjects
from dataflare.formats.text_types import TextColumn
from dataflare.model.types import BOOL, FLOAT64, INT64, STRING, parse_type

pytestmark = pytest.mark.rotates(2)

TYPES = {
    "whole": INT64,
    "small": parse_type("int16"),
    "unsigned": parse_type("uint64"),
    "part": FLOAT64,
    "text": STRING,
    "is_on": BOOL,
    "at": parse_type("timestamp"),
    "day": parse_type("date"),
}
KEYS = st.sampled_from([*TYPES, "new", 'a"b', "\u0130"])
NUMBERS = [
    *("0", "-0", "7", "1.5", "-0.0", "1.0", "1e3", "1E-2", "1e400", "0.1000000000000000000012345", "0.30000000000000001"),
    *("12345678901234.5", "123456789012345.25", "9007199254740992", "9007199254740993", "9223372036854775807"),
    *("9223372036854775808", "18446744073709551615", "18446744073709551616", "-1", "40000", "3.4028234663852886e39"),
    *("01", "+1", "1.", ".5", "-", "NaN", "Infinity", "0.1234567", "123456.789", "1.7976931348623157e308"),
]  # fmt: skip
TEXTS = [
    *('""', '"x"', '"7"', '"1.50"', '"true"', '"a:b"', '"\\":"', '"\\ud83d\\ude00"', '"\\ud800"', '"\\u0000"', '"é"', '"{}"'),
    *('"2026-11-30T14:03:26Z"', '"2026-11-30T14:03:26.123456"', '"2026-11-30"', '"2026-02-30"', '"[1.50]"', '"a\nb"'),
    *('"\\/"', '"\x7f"', '"\x01"', '"' + "[" * 200 + '"'),
]  # fmt: skip
VALUES = st.sampled_from(
    [*NUMBERS, *TEXTS, "null", "true", "false", "[]", "[1.5]", "{}", '{"a": 1}', "nul"]
)
SPACES = st.sampled_from(["", " ", "\t", "\r", "\n"])


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    if draw(st.integers(0, 30)) == 0:
        return draw(
            st.sampled_from(
                [b"", b" ", b"[]", b"null", b"1", b"{", b"{}{}", b"\xff", b"\xef\xbb\xbf{}"]
            )
        )
    pairs = draw(st.lists(st.tuples(KEYS, VALUES), max_size=6))
    if draw(st.booleans()):
        pairs = [*dict(pairs).items()]
    space = draw(SPACES)
    inside = f",{space}".join(f'"{key}"{space}:{space}{value}' for key, value in pairs)
    return f"{space}{{{inside}}}{space}".encode()


def decoders(*, watch: bool, declared: bool) -> tuple[JsonDecoder, JsonDecoder]:
    """One that may take the short way, and one that never does."""
    columns = [TextColumn(name, type_, declared=declared) for name, type_ in TYPES.items()]
    short, long = (JsonDecoder(columns, watch=watch) for _ in range(2))
    long._few = FewObjects([])
    return short, long


@settings(max_examples=400)
@given(
    messages=st.lists(objects(), min_size=1, max_size=4),
    watch=st.booleans(),
    declared=st.booleans(),
)
def test_what_the_short_way_gives_the_long_way_gives(
    messages: list[bytes], watch: bool, declared: bool
) -> None:
    short, long = decoders(watch=watch, declared=declared)
    values = pl.Series(messages, dtype=pl.Binary)
    found, expected = short.decode(values), long.decode(values)
    assert found.rows.equals(expected.rows), found.rows
    assert [bits(each) for each in found.rows["part"]] == [
        bits(each) for each in expected.rows["part"]
    ]
    assert found.rows.schema == expected.rows.schema
    assert found.message.equals(expected.message)
    assert found.bad.equals(expected.bad)
    assert found.warnings == expected.warnings
    assert (found.new_fields is None) == (expected.new_fields is None)


def bits(value: float | None) -> bytes | None:
    return None if value is None else struct.pack("d", value)


@pytest.mark.parametrize(
    "message",
    [
        b'{"whole": 1, "part": 2.5, "text": "x", "is_on": true, "at": "2026-11-30T14:03:26Z", "day": null}',
        b'{"whole":1764511406000000000,"part":12.5,"text":"3ed1e5","small":-7}',
        b"{}",
    ],
)
def test_usual_messages_take_the_short_way(message: bytes) -> None:
    few = FewObjects([TextColumn(name, type_, declared=True) for name, type_ in TYPES.items()])
    assert few.parsed([message], message) is not None


FLOATS = st.floats() | st.sampled_from(
    [1e15, 1e16, 1e21, 1e-5, 1e-7, 5e-324, -0.0, 123456789012345680.0]
)


@given(
    rows=st.lists(
        st.tuples(
            st.none() | FLOATS, st.none() | st.text(max_size=5), st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.booleans(), st.none() | st.datetimes(), st.none() | st.lists(FLOATS, max_size=2),
        ),
        min_size=1, max_size=5,
    ),
    width=st.integers(1, 6),
)  # fmt: skip
def test_few_rows_are_written_as_many_are(rows: list[tuple[object, ...]], width: int) -> None:
    types = [pl.Float64, pl.String, pl.Int64, pl.Boolean, pl.Datetime("us"), pl.List(pl.Float64)]
    names = ["a", 'b"\n', "\u0130", "d", "", "f"]
    columns = zip(names, zip(*rows, strict=True), types, strict=True)
    frame = pl.DataFrame([pl.Series(n, list(v), t) for n, v, t in columns])[:, :width]
    many = pl.concat([frame] * (500 // frame.height + 1))
    few = JsonEncoder().encode(frame).values
    assert few.to_list() == JsonEncoder().encode(many).values.head(frame.height).to_list()


def test_a_sum_that_overflows_is_no_infinite_value() -> None:
    frame = pl.DataFrame({"a": [1.7e308, 1.7e308]})
    assert not math.isfinite(frame["a"].sum())
    assert JsonEncoder().encode(frame).values.to_list() == [b'{"a":1.7e+308}'] * 2
