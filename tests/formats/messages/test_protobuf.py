"""Protobuf messages: read as Google's library reads them, and the other way round."""

from __future__ import annotations

import datetime
import math
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.errors import ConfigError
from dataflare.formats.messages.avro_datum import varint
from dataflare.formats.messages.protobuf import UNKNOWN, ProtobufCodec, ProtobufDecoder
from dataflare.formats.messages.protobuf_encode import ProtobufEncoder
from dataflare.formats.messages.protobuf_fields import says_the_same
from dataflare.formats.messages.protobuf_schema import (
    ProtobufSchema,
    compiled,
    differing_fields,
    path_of,
)
from dataflare.model.types import Schema

SHOP = """
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";
enum Status { NEW = 0; PAID = 1; GONE = 5; }
message Line { string sku = 1; sint32 n = 2; Status status = 3; repeated Part parts = 4; }
message Part { string sku = 1; }
message Order {
  int64 id = 1; int32 i32 = 2; uint64 u64 = 3; uint32 u32 = 4; sint64 s64 = 5; sint32 s32 = 6;
  fixed64 f64 = 7; fixed32 f32 = 8; sfixed64 sf64 = 9; sfixed32 sf32 = 10;
  double d = 11; float f = 12; bool b = 13; string s = 14; bytes x = 15; Status e = 16;
  optional int32 oi = 17; optional string os = 18; optional Status oe = 19;
  Line line = 20; repeated Line lines = 21; repeated int32 nums = 22; repeated string words = 23;
  repeated Status states = 24; map<string, int64> tags = 25; map<int32, Line> by_number = 26;
  google.protobuf.Timestamp at = 27; google.protobuf.Duration took = 28;
  google.protobuf.StringValue note = 29; google.protobuf.Int64Value boxed = 30;
  oneof pay { string card = 31; int64 cash = 32; Line swap = 33; }
  map<string, Status> moods = 34; repeated google.protobuf.Timestamp times = 35;
  message Inner { int32 v = 1; }
  Inner inner = 36;
}
message Other { int32 a = 1; }
"""
OLD = """
syntax = "proto2";
message Old {
  required int32 a = 1; optional string b = 2 [default = "x"]; repeated int32 c = 3;
  enum E { X = 1; Y = 2; }
  optional E e = 5;
}
"""


@cache
def schema(text: str) -> ProtobufSchema:
    return ProtobufSchema(compiled({"main.proto": text}, [], "main.proto"), "main.proto")


@cache
def codec(name: str = "shop.Order", text: str = SHOP) -> ProtobufCodec:
    return ProtobufCodec(schema(text).message(name))


def series(values: list[bytes | None]) -> pl.Series:
    return pl.Series("value", values, dtype=pl.Binary)


# --- messages and what their columns are ----------------------------------------------------------

STATES = {0: "NEW", 1: "PAID", 5: "GONE"}
i32, u32 = st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1)
i64, u64 = st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**64 - 1)
texts = st.text(max_size=10)
states = st.sampled_from([0, 1, 5, 9, -1])
lines = st.fixed_dictionaries(
    {},
    optional={
        "sku": texts,
        "n": i32,
        "status": states,
        "parts": st.lists(st.fixed_dictionaries({}, optional={"sku": texts}), max_size=2),
    },
)
moments = st.fixed_dictionaries(
    {"seconds": st.integers(-(2**30), 2**32), "nanos": st.integers(0, 999_999_999)}
)
FIELDS: dict[str, Any] = {
    "id": i64, "i32": i32, "u64": u64, "u32": u32, "s64": i64, "s32": i32, "f64": u64, "f32": u32,
    "sf64": i64, "sf32": i32, "d": st.floats(allow_nan=False), "f": st.floats(width=32, allow_nan=False),
    "b": st.booleans(), "s": texts, "x": st.binary(max_size=10), "e": states, "oi": i32, "os": texts,
    "oe": states, "line": lines, "lines": st.lists(lines, max_size=2), "nums": st.lists(i32, max_size=3),
    "words": st.lists(texts, max_size=2), "states": st.lists(states, max_size=2),
    "tags": st.dictionaries(texts, i64, max_size=2), "by_number": st.dictionaries(i32, lines, max_size=2),
    "at": moments, "took": moments.map(
        lambda m: m if m["seconds"] > 0 else {"seconds": m["seconds"], "nanos": -m["nanos"]}
    ), "note": st.fixed_dictionaries({"value": texts}),
    "boxed": st.fixed_dictionaries({"value": i64}), "moods": st.dictionaries(texts, states, max_size=2),
    "times": st.lists(moments, max_size=2), "inner": st.fixed_dictionaries({}, optional={"v": i32}),
}  # fmt: skip
orders = st.tuples(
    st.fixed_dictionaries({}, optional=FIELDS),
    st.sampled_from([None, "card", "cash", "swap"]).flatmap(
        lambda name: (
            st.just({})
            if name is None
            else st.fixed_dictionaries({name: {"card": texts, "cash": i64, "swap": lines}[name]})
        )
    ),
).map(lambda parts: parts[0] | parts[1])


def message(values: dict[str, Any]) -> Any:
    maps = {k: v for k, v in values.items() if k == "by_number"}
    made = codec().message(**{k: v for k, v in values.items() if k not in maps})
    for number, line in maps.get("by_number", {}).items():
        made.by_number[number].CopyFrom(codec().message(line=line).line)
    return made


def plain(found: Any) -> dict[str, Any]:
    """The columns of a message, read field by field with Google's library."""
    row = {}
    for field in found.DESCRIPTOR.fields:
        value = getattr(found, field.name)
        type_ = field.message_type
        if type_ is not None and type_.GetOptions().map_entry:
            inner = type_.fields_by_name["value"]
            pairs = [{"key": k, "value": one(inner, v)} for k, v in value.items()]
            row[field.name] = sorted(pairs, key=repr)
        elif field.is_repeated:
            row[field.name] = [one(field, each) for each in value]
        elif field.has_presence and not found.HasField(field.name):
            row[field.name] = None
        else:
            row[field.name] = one(field, value)
    return row


def one(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        return STATES.get(value, str(value))
    name = field.message_type.full_name if field.message_type is not None else ""
    if name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
        return value.seconds * 10**9 + value.nanos
    if name.endswith("Value"):
        return value.value
    return plain(value) if name else value


def comparable(rows: pl.DataFrame) -> list[dict[str, Any]]:
    ticks = rows.with_columns(
        pl.col("at", "took").to_physical(), pl.col("times").list.eval(pl.element().to_physical())
    ).to_dicts()
    for row in ticks:
        for name in ("tags", "by_number", "moods"):
            row[name] = sorted(row[name], key=repr)
    return ticks


@given(st.lists(orders, max_size=4))
@settings(max_examples=50, deadline=None)
def test_messages_are_read_as_googles_library_reads_them_and_come_back(batch: list[dict[str, Any]]):
    messages = [message(each) for each in batch]
    data = series([each.SerializeToString() for each in messages])
    decoder = ProtobufDecoder(codec())
    decoded = decoder.decode(data)
    assert dict(decoded.rows.schema) == dict(decoder.schema.to_polars())
    assert decoded.bad.height == 0
    assert comparable(decoded.rows) == [plain(each) for each in messages]
    encoded = ProtobufEncoder(decoder.schema, codec()).encode(decoded.rows)
    assert encoded.bad.height == 0
    written = [codec().message.FromString(each) for each in encoded.values]
    assert all(says_the_same(*pair) for pair in zip(written, messages, strict=True))


@given(st.lists(orders, min_size=1, max_size=3), st.data())
@settings(max_examples=50, deadline=None)
def test_changed_bytes_are_read_as_googles_library_reads_them_or_are_bad(
    batch: list[dict[str, Any]], data: st.DataObject
):
    messages = [message(each).SerializeToString() for each in batch] * 2
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(messages) - 1))
        changed = bytearray(messages[at])
        where = data.draw(st.integers(0, len(changed)))
        match data.draw(st.sampled_from(["cut", "more", "change", "twice"])):
            case "cut":
                changed = changed[:where]
            case "more":
                changed[where:where] = data.draw(st.binary(max_size=4))
            case "change" if where < len(changed):
                changed[where] = data.draw(st.integers(0, 255))
            case "twice":
                changed += data.draw(st.sampled_from(messages))
        messages[at] = bytes(changed)
    decoded = ProtobufDecoder(codec()).decode(series(messages))
    rows = dict(zip(decoded.message, comparable(decoded.rows), strict=True))
    bad = dict(decoded.bad.select("message", "error").rows())
    assert rows.keys() | bad.keys() == {*range(len(messages))}
    for at, each in enumerate(messages):
        try:
            theirs = codec().message.FromString(each)
        except Exception:  # DecodeError of the library
            assert at in bad
            continue
        if at in bad:
            assert "cannot hold" in bad[at] or far(theirs), (each, bad[at])
            continue
        theirs.DiscardUnknownFields()
        assert repr(rows[at]) == repr(plain(theirs))


def far(found: Any) -> bool:
    return any(abs(each.seconds) > 2**33 for each in (found.at, found.took, *found.times))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x72\x05ab", "EOF"),
        (b"\x72\xff\xff\xff\xff\x07abc", "EOF"),
        (b"\x72\x02\xff\xfe", "UTF-8"),
        (b"\x08" + b"\xff" * 11, "varint"),
        (b"\x00\x01", "field number 0"),
        (b"\x0c", "end-group"),
    ],
)
def test_bytes_that_are_not_a_message_are_bad(data: bytes, problem: str):
    good = message({"id": 7}).SerializeToString()
    decoded = ProtobufDecoder(codec()).decode(series([good, data, None, good]))
    assert decoded.rows["id"].to_list() == [7, 7]
    assert decoded.message.to_list() == [0, 3]
    (bad,) = decoded.bad.rows()
    assert (bad[0], bad[1], bad[3]) == (1, "E0570", data)
    assert problem in bad[2]


def test_a_time_that_its_column_cannot_hold_is_bad():
    far_ = message({"at": {"seconds": 253402300799, "nanos": 0}}).SerializeToString()
    decoded = ProtobufDecoder(codec()).decode(series([far_]))
    assert decoded.bad["error"].to_list() == [
        "it has a value that its column cannot hold, such as a far time"
    ]


def test_legal_bytes_in_another_form_are_read():
    """Numbers that are not packed, a message in two parts, two fields of a oneof, a zero with a sign."""
    batch = [
        b"\xb0\x01\x01\xb0\x01\x02",
        b"\xda\x01\x02\x08\x05\xda\x01\x02\x10\x07",
        b"\xfa\x01\x01a\x80\x02\x05",
        b"\xca\x01\x05\n\x01a\x10\x01\xca\x01\x05\n\x01a\x10\x02",
        message({"d": -0.0}).SerializeToString(),
        message({"d": math.nan}).SerializeToString(),
    ]
    decoded = ProtobufDecoder(codec()).decode(series(batch))
    assert decoded.bad.height == 0
    assert decoded.rows["nums"].to_list()[0] == [1, 2]
    assert decoded.rows["at"].to_physical().to_list()[1] == 5_000_000_007
    assert decoded.rows.select("card", "cash").rows()[2] == (None, 5)
    assert decoded.rows["tags"].to_list()[3] == [{"key": "a", "value": 2}]
    assert math.copysign(1, decoded.rows["d"][4]) == -1
    assert math.isnan(decoded.rows["d"][5])


def test_fields_that_the_schema_lacks_are_told():
    more = message({"id": 1}).SerializeToString() + b"\xf8\x3f\x01"
    inside = b"\xa2\x01\x03\xf8\x3f\x01"
    decoded = ProtobufDecoder(codec()).decode(series([more, message({"id": 2}).SerializeToString(), inside]))  # fmt: skip
    assert decoded.rows["id"].to_list() == [1, 2, 0]
    assert dict(decoded.warnings) == {UNKNOWN: 2}


def test_proto2_has_presence_and_its_groups_are_refused():
    old = codec("Old", OLD)
    made = old.message(a=1, c=[1, 2], e=2)
    decoded = ProtobufDecoder(old).decode(series([made.SerializeToString(), old.message(a=5).SerializeToString()]))  # fmt: skip
    assert decoded.rows.to_dicts() == [
        {"a": 1, "b": None, "c": [1, 2], "e": "Y"},
        {"a": 5, "b": None, "c": [], "e": None},
    ]
    grouped = OLD.replace(
        "optional E e", "repeated group G = 4 { optional int32 z = 1; } optional E e"
    )
    with pytest.raises(ConfigError, match="fields that no column holds") as caught:
        codec("Old", grouped)
    assert caught.value.notes == ["Old.g is a group"]


def test_messages_inside_themselves_are_refused():
    tree = 'syntax = "proto3"; message Tree { int32 v = 1; repeated Tree kids = 2; }'
    with pytest.raises(ConfigError, match="fields that no column holds") as caught:
        codec("Tree", tree)
    assert caught.value.notes == ["Tree.kids holds a Tree in itself"]


# --- encoding -------------------------------------------------------------------------------------


def test_rows_that_the_message_cannot_hold_are_bad():
    rows = pl.DataFrame(
        {
            "id": [1, None, 3, 4, 5, 6],
            "i32": [1, 2, 2**40, 4, 5, 6],
            "e": ["PAID", "NEW", "NEW", "NOPE", "9", "GONE"],
            "nums": [[1], [], [], [], [], [1, None]],
            "oi": [None, 1, 1, 1, 1, 1],
        },
        schema={"id": pl.Int64, "i32": pl.Int64, "e": pl.String, "nums": pl.List(pl.Int64), "oi": pl.Int32},
    )  # fmt: skip
    encoded = ProtobufEncoder(Schema.from_polars(rows.schema), codec()).encode(rows)
    assert encoded.values.is_null().to_list() == [False, True, True, True, False, True]
    assert encoded.bad["error"].to_list() == [
        f"column '{name}': its field cannot hold it, or cannot be absent"
        for name in ("id", "i32", "e", "nums")
    ]
    found = codec().message.FromString(encoded.values[0])
    assert (found.id, found.e, [*found.nums], found.HasField("oi")) == (1, 1, [1], False)
    assert codec().message.FromString(encoded.values[4]).e == 9


def test_a_value_in_a_list_or_a_struct_that_would_change_is_bad():
    rows = pl.DataFrame(
        {"nums": [[1], [2**40]], "line": [{"sku": "x", "n": 1}, {"sku": "y", "n": 2}]},
        schema={
            "nums": pl.List(pl.Int64),
            "line": pl.Struct({"sku": pl.String, "n": pl.Int64}),
        },
    )
    encoded = ProtobufEncoder(Schema.from_polars(rows.schema), codec()).encode(rows)
    assert encoded.bad["message"].to_list() == [1]
    found = codec().message.FromString(encoded.values[0])
    assert (found.line.sku, found.line.n) == ("x", 1)
    wide = rows.head(1).with_columns(line=pl.struct(sku=pl.lit("x"), n=pl.lit(2**40)))
    encoded = ProtobufEncoder(Schema.from_polars(wide.schema), codec()).encode(wide)
    assert encoded.bad["message"].to_list() == [0]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"nothing": "int64"}, "no field 'nothing'"),
        ({"id": "string"}, "it is string, and the field is int64"),
        ({"line": "struct<x: int64>"}, "its message has no field 'x'"),
        ({"at": "timestamp[us]"}, "and the field is timestamp"),
    ],
)
def test_columns_that_do_not_fit_the_message_are_refused(columns: Any, problem: str):
    with pytest.raises(ConfigError, match=problem) as caught:
        ProtobufEncoder(Schema.of(columns), codec())
    assert caught.value.code == "E0427"


def test_times_of_other_units_come_back():
    at = datetime.datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=datetime.UTC)
    rows = pl.DataFrame({"at": [at, None]}, schema={"at": pl.Datetime("us", "UTC")})
    encoded = ProtobufEncoder(Schema.from_polars(rows.schema), codec()).encode(rows)
    assert encoded.bad.height == 0
    found = codec().message.FromString(encoded.values[0])
    assert found.at.ToDatetime(tzinfo=datetime.UTC) == at


# --- schemas --------------------------------------------------------------------------------------


def test_errors_of_a_proto_file_name_the_line(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"main\.proto is not compiled") as caught:
        compiled({"main.proto": 'syntax = "proto3";\nmessage A { in64 x = 1; }'}, [], "main.proto")
    assert caught.value.code == "E0426"
    assert 'main.proto:2:13: "in64" is not defined.' in caught.value.notes[0]
    with pytest.raises(ConfigError, match="not a descriptor set"):
        ProtobufSchema(b"\xff\xff")
    with pytest.raises(ConfigError, match="not a name that an import may have"):
        compiled({"../x.proto": ""}, [], "../x.proto")
    with pytest.raises(ConfigError, match="an edition"):
        schema('edition = "2023"; message A { int32 x = 1; }')


def test_the_message_is_named_or_the_only_one():
    assert schema(OLD).message().full_name == "Old"
    with pytest.raises(ConfigError, match="not exactly one message") as caught:
        schema(SHOP).message()
    assert "shop.Order" in caught.value.notes[0]
    with pytest.raises(ConfigError, match=r"no message 'shop\.Ordr'") as caught:
        schema(SHOP).message("shop.Ordr")
    assert caught.value.help == "did you mean 'shop.Order'?"


def test_a_message_is_found_by_its_indexes():
    found = schema(SHOP)
    for name, path in {"shop.Line": [0], "shop.Order": [2], "shop.Other": [3]}.items():
        assert path_of(found.message(name)) == path
        assert found.at(path).full_name == name
    inner = found.message("shop.Order.Inner")
    assert found.at(path_of(inner)).full_name == "shop.Order.Inner"
    assert found.at([9]) is None


def test_fields_with_other_bytes_are_seen():
    new = schema(
        'syntax = "proto3"; message A { int32 a = 1; string b = 2; bool c = 3; }'
    ).message()
    old = schema(
        'syntax = "proto3"; message A { int64 a = 1; double b = 2; int32 d = 4; }'
    ).message()
    assert differing_fields(old, new) == ["A.b"]


def test_messages_with_an_id_are_read_by_their_type():
    def check(id_: int, indexes: tuple[int, ...]) -> str | None:
        return None if (id_, indexes) in ((3, (2,)), (3, (0,))) else "not this"

    decoder = ProtobufDecoder(codec(), check=check)
    data = message({"id": 7}).SerializeToString()
    head = b"\0\0\0\0\x03"
    batch = [
        head + b"\0" + data,
        head + varint(1) + varint(2) + data,
        head + varint(2) + varint(2) + varint(0) + data,
        head + b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        None,
        b"\0\0\0\0\x04\0" + data,
        b"no head",
    ]
    decoded = decoder.decode(series(batch))
    assert decoded.message.to_list() == [0, 1]
    assert decoded.rows["id"].to_list() == [7, 7]
    assert decoded.bad["message"].to_list() == [2, 3, 5, 6]
    assert decoded.bad["value"].to_list() == [batch[at] for at in (2, 3, 5, 6)]
