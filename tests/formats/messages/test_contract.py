"""The contract of decoders: each message gives rows or is bad, whatever the messages beside it are."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import polars as pl
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.errors import ConfigError
from dataflare.formats.messages.contract import Decoded, Decoder
from dataflare.formats.messages.envelope import HEADERS, Envelope
from dataflare.formats.messages.json import JsonDecoder, JsonEncoder, sampled
from dataflare.formats.messages.raw import RawDecoder, RawEncoder
from dataflare.formats.text_types import TextColumn
from dataflare.model.types import BINARY, INT64, STRING, Field, Schema, parse_type, timestamp

COLUMNS = [
    TextColumn(name, parse_type(type_))
    for name, type_ in {"a": "int64", "b": "string", "c": "struct<d: float64>"}.items()
]
DECODERS = {
    "json": JsonDecoder(COLUMNS),
    "raw": RawDecoder(),
    "text": RawDecoder(text=True),
}


def series(values: list[bytes | None]) -> pl.Series:
    return pl.Series("value", values, dtype=pl.Binary)


def outcome(decoded: Decoded, at: int) -> tuple[Any, ...]:
    """What became of one message."""
    rows = decoded.rows.filter(decoded.message == at).rows()
    bad = decoded.bad.filter(pl.col("message") == at).select("code", "error", "value").rows()
    fields = decoded.new_fields.fields if decoded.new_fields is not None else {}
    return rows, bad, sorted(path for path, places in fields.items() if at in places)


GOOD = (
    b'{"a": 1, "b": "x", "c": {"d": 1.5}}',
    b'{"a":1,\n"b":"\\n"}',
    b"{}",
    b'{"b": null, "new": 1}',
    b'{"a": 9223372036854775807}',
    b'{"b": 1.50}',
)
ODD = (
    b"",
    b" \n\t",
    b"\r",
    b"null",
    b"1",
    b"[1]",
    b'{"a": 1}{"a": 2}',
    b'{"a": 1}\n{"a": 2}',
    b'{"a": 1}\r{"a": 2}',
    b'{"b": "x\ny"}',
    b'{"b": "x\ry"}',
    b'{"a": "x"}',
    b'{"a": 1.5}',
    b'{"a": 9223372036854775808}',
    b'{"b": "\\ud800"}',
    b'\xef\xbb\xbf{"a": 1}',
    b'{"a": 1}\x00',
    b"\xff\xfe",
    b'{"a": 1',
    b'{"a": 1, "a": 2}',
    b"\x28\xb5\x2f\xfd",
    gzip.compress(b'{"a": 1}', mtime=0),
    zstandard.compress(b'{"a": 1}'),
    zlib.compress(b'{"a": 1}'),
)
"""The last ones are compressed: no format says so, and nothing decompresses them."""
messages = st.lists(
    st.none() | st.sampled_from(GOOD) | st.sampled_from(ODD) | st.binary(max_size=12), max_size=8
)


@pytest.mark.parametrize("name", DECODERS)
@given(batch=messages)
@settings(max_examples=150, deadline=None)
def test_what_becomes_of_a_message_does_not_depend_on_its_neighbours(
    name: str, batch: list[bytes | None]
):
    decoder: Decoder = DECODERS[name]
    decoded = decoder.decode(series(batch))
    assert dict(decoded.rows.schema) == dict(decoder.schema.to_polars())
    assert decoded.rows.height == decoded.message.len()
    assert decoded.message.is_sorted()
    assert decoded.bad["message"].is_sorted()
    gone = {*decoded.message} | {*decoded.bad["message"]}
    assert gone == {i for i, value in enumerate(batch) if value is not None}
    assert not {*decoded.message} & {*decoded.bad["message"]}
    for at, value in enumerate(batch):
        alone = decoder.decode(series([value]))
        assert outcome(decoded, at) == outcome(alone, 0)


@given(batch=st.lists(st.sampled_from(GOOD) | st.sampled_from(ODD), max_size=6))
@settings(max_examples=200, deadline=None)
def test_json_gives_what_a_plain_reader_gives(batch: list[bytes]):
    decoded = DECODERS["json"].decode(series(batch))
    for at, value in enumerate(batch):
        rows = decoded.rows.filter(decoded.message == at).to_dicts()
        try:
            plain = json.loads(
                value.decode("utf-8-sig"), object_pairs_hook=lambda pairs: dict(reversed(pairs))
            )
        except ValueError:
            assert rows == []
            continue
        if not isinstance(plain, dict) or not isinstance(plain.get("a"), int | None):
            assert rows == []
        elif rows:
            assert rows[0]["a"] == plain.get("a")
            if isinstance(plain.get("b"), str):
                assert rows[0]["b"] == plain["b"]
        else:
            # Refused because a column cannot hold it, never changed.
            assert abs(plain.get("a") or 0) >= 2**63 or "\ud800" in str(plain.get("b"))


def test_numbers_in_a_column_of_text_stay_as_they_were_written():
    decoded = DECODERS["json"].decode(series([b'{"b": 1.50}', b'{"b": 12345678901234567890}']))
    assert decoded.rows["b"].to_list() == ["1.50", "12345678901234567890"]


def test_a_key_that_is_twice_is_told():
    decoded = DECODERS["json"].decode(series([b'{"a": 1, "a": 2}']))
    assert decoded.rows["a"].to_list() == [1]
    assert list(decoded.warnings) == [
        "the key 'a' is twice in one object: only its first value is read"
    ]


def test_bytes_that_are_no_text_are_kept_in_base64():
    decoded = DECODERS["text"].decode(series([b"good", b"\xff\x00", None]))
    assert decoded.rows["value"].to_list() == ["good"]
    bad = decoded.bad_rows(lambda message: f"topic offset {message}")[0]
    assert (bad.row, bad.code, bad.raw, bad.place) == (1, "E0504", "base64:/wA=", "topic offset 1")


def test_columns_of_a_sample_with_a_contract():
    columns = sampled(series([b'{"a": 1, "b": 2}', None]), Schema.of({"b": "string", "z": "date"}))
    assert {c.name: str(c.type) for c in columns} == {"a": "int64", "b": "string", "z": "date"}


def test_json_comes_back():
    rows = pl.DataFrame({"a": [1, None], "b": ["line\nfeed", "\u2028"], "c": [{"d": 1.5}, None]})
    encoded = JsonEncoder().encode(rows)
    assert encoded.values.len() == 2
    assert DECODERS["json"].decode(encoded.values).rows.equals(rows)


def test_raw_comes_back_and_takes_one_column_only():
    rows = pl.DataFrame({"value": [b"\xff", None, b""]})
    encoded = RawEncoder(Schema.of({"value": "binary"})).encode(rows)
    assert encoded.values.to_list() == [b"\xff", None, b""]
    with pytest.raises(ConfigError, match="one column of bytes or text"):
        RawEncoder(Schema.of({"a": "int64"}))
    with pytest.raises(ConfigError, match="one column of bytes or text"):
        RawEncoder(Schema.of({"a": "string", "b": "string"}))


# --- envelopes ------------------------------------------------------------------------------------

BATCH = pl.DataFrame(
    {
        "value": [b'{"a": 1}', None, b"broken", b'{"a": 4}'],
        "key": [b"k1", b"k2", b"k3", b"\xff"],
        "headers": [[{"key": "h", "value": b"1"}], [], None, []],
        "offset": [10, 11, 12, 13],
        "timestamp": [1, 2, 3, 4],
    },
    schema={
        "value": pl.Binary,
        "key": pl.Binary,
        "headers": HEADERS.to_polars(),
        "offset": pl.Int64,
        "timestamp": pl.Datetime("ms", "UTC"),
    },
)
METADATA = (
    Field("key", BINARY),
    Field("offset", INT64),
    Field("timestamp", timestamp("ms", "UTC")),
    Field("headers", HEADERS),
)


def test_metadata_are_columns_beside_those_of_the_value():
    envelope = Envelope(DECODERS["json"], METADATA)
    decoded = envelope.decode(BATCH)
    assert dict(decoded.rows.schema) == dict(envelope.schema.to_polars())
    assert decoded.rows.select("a", "_key", "_offset").rows() == [
        (1, b"k1", 10),
        (None, b"k2", 11),
        (4, b"\xff", 13),
    ]
    assert decoded.message.to_list() == [0, 1, 3]
    assert decoded.bad["message"].to_list() == [2]
    assert decoded.rows["_headers"].to_list()[0] == [{"key": "h", "value": b"1"}]


def test_metadata_may_be_one_column():
    envelope = Envelope(DECODERS["json"], METADATA[:2], nested=True)
    decoded = envelope.decode(BATCH)
    assert dict(decoded.rows.schema) == dict(envelope.schema.to_polars())
    assert decoded.rows["_message"].to_list()[0] == {"key": b"k1", "offset": 10}


def test_a_bad_key_makes_a_bad_message():
    envelope = Envelope(DECODERS["json"], METADATA[:1], key=DECODERS["text"])
    decoded = envelope.decode(BATCH)
    assert envelope.schema["_key"] == STRING
    assert decoded.rows.select("a", "_key").rows() == [(1, "k1"), (None, "k2")]
    assert decoded.bad.select("message", "code", "value").rows() == [
        (2, "E0503", b"broken"),
        (3, "E0504", b'{"a": 4}'),
    ]
    assert decoded.bad["error"][1] == "key: the message is not valid UTF-8"


def test_a_key_with_fields_is_a_struct():
    batch = pl.DataFrame(
        {"value": [b'{"a": 1}', None], "key": [b'{"a": 7}', None]},
        schema={"value": pl.Binary, "key": pl.Binary},
    )
    key = JsonDecoder([TextColumn("a", INT64)])
    decoded = Envelope(DECODERS["json"], METADATA[:1], key=key).decode(batch)
    assert decoded.rows["_key"].to_list() == [{"a": 7}, None]


@pytest.mark.parametrize(
    ("tombstones", "rows"),
    [("null", [1, None]), ("skip", [1]), ("delete", [1, None])],
)
def test_a_message_without_a_value_is_what_the_option_says(tombstones: Any, rows: list[Any]):
    decoded = Envelope(DECODERS["json"], tombstones=tombstones).decode(BATCH.head(2))
    assert decoded.rows["a"].to_list() == rows
    assert decoded.bad.height == 0
    if tombstones == "delete":
        assert decoded.rows["__dataflare_kind"].to_list() == [0, 3]
    else:
        assert "__dataflare_kind" not in decoded.rows.columns


def test_a_field_with_the_name_of_a_column_of_metadata_is_refused():
    decoder = JsonDecoder([TextColumn("_offset", INT64)])
    with pytest.raises(ConfigError, match="'_offset'"):
        _ = Envelope(decoder, METADATA).schema


def test_a_list_is_told_of_messages_and_not_of_files() -> None:
    (error,) = DECODERS["json"].decode(series([b'[{"a": 1}]'])).bad["error"]
    assert error == "not a JSON object but a list; a message is one object"
