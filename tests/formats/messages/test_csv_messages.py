"""Messages of CSV: each is one record, whatever the messages beside it are."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.errors import ConfigError
from dataflare.formats.csv_read import CsvDialect
from dataflare.formats.messages.contract import Decoded
from dataflare.formats.messages.csv import CsvDecoder, CsvEncoder, csv_columns
from dataflare.model.types import Schema

pytestmark = pytest.mark.rotates(2)

DIALECT = CsvDialect()
TYPES = {"a": "int64", "b": "string", "at": "timestamp[us, UTC]"}


def decoder_of(types: dict[str, str], dialect: CsvDialect = DIALECT) -> CsvDecoder:
    return CsvDecoder(csv_columns(None, Schema.of(types), None, dialect, "read"), dialect)


DECODERS = {
    "three": decoder_of(TYPES),
    "one": decoder_of({"b": "string"}),
    "semicolons": decoder_of({"a": "int64", "b": "string"}, CsvDialect(";", None, ("NA",))),
}


def series(values: list[bytes | None]) -> pl.Series:
    return pl.Series("value", values, dtype=pl.Binary)


def outcome(decoded: Decoded, at: int) -> tuple[Any, ...]:
    rows = decoded.rows.filter(decoded.message == at).rows()
    bad = decoded.bad.filter(pl.col("message") == at).select("code", "error", "value").rows()
    return rows, bad


GOOD = (
    b"1,x,2024-01-01T00:00:00Z",
    b"1,x,2024-01-01T00:00:00Z\n",
    b"1,x,2024-01-01T00:00:00Z\r\n",
    b'2,"line\nfeed, and ""quotes""",',
    b'3,"",',
    b",,",
    b'4,in"side,',
    b"1;x",
    b"NA;NA",
    b"x",
    b'"x"',
)
ODD = (
    b"",
    b"\n",
    b"\r\n",
    b"\r",
    b" ",
    b"\xef\xbb\xbf1,x,",
    b"1,x",
    b"1,x,,",
    b"x,x,",
    b"007,x,",
    b"1,x,yesterday",
    b'1,"x,',
    b'x",1,',
    b'"',
    b'1,"x"y,',
    b"1,x,\n2,y,",
    b"1,x,\n\n",
    b"1,a\rb,",
    b"1,\x00,",
    b"1,\xff,",
    b"9223372036854775808,x,",
)
messages = st.lists(
    st.none()
    | st.sampled_from(GOOD)
    | st.sampled_from(ODD)
    | st.text(alphabet='a1,;"\n\r ', max_size=7).map(str.encode),
    max_size=7,
)


@pytest.mark.parametrize("name", DECODERS)
@given(batch=messages)
@settings(max_examples=60, deadline=None)
def test_a_record_is_read_the_same_whatever_is_beside_it(name: str, batch: list[bytes | None]):
    decoder = DECODERS[name]
    decoded = decoder.decode(series(batch))
    assert dict(decoded.rows.schema) == dict(decoder.schema.to_polars())
    assert decoded.message.is_sorted()
    gone = [*decoded.message, *decoded.bad["message"]]
    assert sorted(gone) == [i for i, value in enumerate(batch) if value is not None]
    for at, value in enumerate(batch):
        assert outcome(decoded, at) == outcome(decoder.decode(series([value])), 0)


def test_what_is_wrong_with_a_message_is_said():
    decoded = DECODERS["three"].decode(series([*ODD]))
    said = dict(zip(decoded.bad["value"], decoded.bad["error"], strict=True))
    assert said[b""] == "1 field where 3 were expected"
    assert said[b"1,x,,"] == "4 fields where 3 were expected"
    assert said[b"1,x,\n2,y,"] == "2 records where one was expected"
    assert said[b'1,"x,'] == "a quote is opened and never closed"
    assert said[b"1,\x00,"] == "contains a NUL byte"
    assert said[b"1,\xff,"] == "not valid UTF-8 at byte 3 of the message"
    assert said[b"x,x,"] == "column 'a': 'x' is not an int64"
    assert decoded.rows["a"].to_list()[0] == 1


def test_types_are_found_in_a_sample():
    sample = series([b"1,2024-01-01,x", None, b"2,2024-01-02,\n", b"broken"])
    columns = csv_columns(["n", "day", "t"], Schema.of({"t": "json"}), sample, DIALECT, "read")
    assert {c.name: str(c.type) for c in columns} == {"n": "int64", "day": "date", "t": "json"}


@pytest.mark.parametrize(
    ("names", "contract", "says"),
    [
        (None, None, "their columns are not known"),
        (["a", "b"], {"c": "int64"}, "'schema' names the column 'c'"),
    ],
)
def test_columns_that_are_not_known(names: list[str] | None, contract: Any, says: str):
    schema = Schema.of(contract) if contract else None
    with pytest.raises(ConfigError, match=says):
        csv_columns(names, schema, None, DIALECT, "read")


@given(
    rows=st.lists(
        st.tuples(
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
        ),
        max_size=6,
    ),
    delimiter=st.sampled_from(",;\t|"),
)
@settings(max_examples=60, deadline=None)
def test_rows_come_back(rows: list[tuple[int | None, str | None]], delimiter: str):
    frame = pl.DataFrame(rows, schema={"a": pl.Int64, "b": pl.String}, orient="row")
    encoded = CsvEncoder(["b", "a"], delimiter).encode(frame)
    bad = {at for at, (_, text) in enumerate(rows) if text is not None and "\0" in text}
    assert {*encoded.bad["message"]} == bad
    assert encoded.values.is_null().arg_true().to_list() == sorted(bad)
    dialect = CsvDialect(delimiter)
    decoded = decoder_of({"b": "string", "a": "int64"}, dialect).decode(encoded.values)
    assert not decoded.bad.height
    expected = [row for at, row in enumerate(rows) if at not in bad]
    assert decoded.rows.select("a", "b").rows() == expected


@given(texts=st.lists(st.none() | st.text(alphabet='a"\n\r, ', max_size=4), max_size=6))
@settings(max_examples=40, deadline=None)
def test_rows_of_one_column_come_back(texts: list[str | None]):
    encoded = CsvEncoder(["b"], ",").encode(pl.DataFrame({"b": texts}, schema={"b": pl.String}))
    decoded = DECODERS["one"].decode(encoded.values)
    assert decoded.rows["b"].to_list() == texts
