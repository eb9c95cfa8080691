"""Avro messages: what fastavro writes is read as fastavro reads it, and the other way round."""

from __future__ import annotations

import datetime
import io
import json
import math
from decimal import Decimal
from typing import Any

import fastavro
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dataflare.errors import ConfigError, DataError
from dataflare.formats.messages.avro import AvroDecoder
from dataflare.formats.messages.avro_encode import AvroEncoder, schema_of
from dataflare.formats.messages.avro_schema import AvroType, parse
from dataflare.formats.messages.avro_wire import WireReader, WireWriter
from dataflare.model.types import Schema

UTC = datetime.UTC


def series(values: list[bytes | None]) -> pl.Series:
    return pl.Series("value", values, dtype=pl.Binary)


def written(schema: Any, row: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(json.dumps(schema))), row)
    return out.getvalue()


# --- schemas and values, made together ------------------------------------------------------------

longs = st.integers(-(2**63), 2**63 - 1) | st.integers(-200, 200)
ints = st.integers(-(2**31), 2**31 - 1) | st.integers(-200, 200)
texts = st.text(max_size=20)
times = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1))
LEAVES: dict[str, tuple[Any, Any]] = {
    "boolean": ("boolean", st.booleans()),
    "int": ("int", ints),
    "long": ("long", longs),
    "float": ("float", st.floats(width=32, allow_nan=False)),
    "double": ("double", st.floats(allow_nan=False)),
    "bytes": ("bytes", st.binary(max_size=20)),
    "string": ("string", texts),
    "date": (
        {"type": "int", "logicalType": "date"},
        st.dates(datetime.date(1, 1, 1), datetime.date(9999, 12, 31)),
    ),
    "time-millis": (
        {"type": "int", "logicalType": "time-millis"},
        st.times().map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000)),
    ),
    "time-micros": ({"type": "long", "logicalType": "time-micros"}, st.times()),
    "micros": (
        {"type": "long", "logicalType": "timestamp-micros"},
        times.map(lambda t: t.replace(tzinfo=UTC)),
    ),
    "local": ({"type": "long", "logicalType": "local-timestamp-micros"}, times),
    "decimal": (
        {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
        st.integers(-(10**9) + 1, 10**9 - 1).map(lambda n: Decimal(n).scaleb(-2)),
    ),
    "long decimal": (
        {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 0},
        # fastavro rounds to the digits of Python's context, 28.
        st.integers(-(10**28) + 1, 10**28 - 1).map(Decimal),
    ),
}


@st.composite
def typed(draw: Any, depth: int = 2) -> tuple[Any, Any]:
    """An Avro schema, and a strategy for its values."""
    number = draw(st.integers(0, 10**9))
    kinds = ["leaf"] * 3 + ["enum", "fixed", "optional", "last", "union"]
    kinds += ["array", "map", "record"] if depth else []
    match draw(st.sampled_from(kinds)):
        case "leaf":
            schema, values = LEAVES[draw(st.sampled_from(sorted(LEAVES)))]
            return schema, values
        case "enum":
            symbols = ["A", "B", "C"][: draw(st.integers(1, 3))]
            return {"type": "enum", "name": f"E{number}", "symbols": symbols}, st.sampled_from(
                symbols
            )
        case "fixed":
            size = draw(st.integers(1, 9))
            return {"type": "fixed", "name": f"F{number}", "size": size}, st.binary(
                min_size=size, max_size=size
            )
        case "optional" | "last" as kind:
            schema, values = draw(typed(depth))
            assume(not isinstance(schema, list))
            union = ["null", schema] if kind == "optional" else [schema, "null"]
            return union, st.none() | values
        case "union":
            union = draw(st.permutations(["null", "long", "string", "boolean"]))
            union = union[: draw(st.integers(2, 4))]
            values = {"null": st.none(), "long": longs, "string": texts, "boolean": st.booleans()}
            return list(union), st.one_of(*(values[each] for each in union))
        case "array":
            schema, values = draw(typed(depth - 1))
            return {"type": "array", "items": schema}, st.lists(values, max_size=3)
        case "map":
            schema, values = draw(typed(depth - 1))
            return {"type": "map", "values": schema}, st.dictionaries(texts, values, max_size=3)
    fields = draw(st.lists(typed(depth - 1), min_size=1, max_size=3))
    schema = {
        "type": "record",
        "name": f"R{number}",
        "fields": [{"name": f"f{at}", "type": each} for at, (each, _) in enumerate(fields)],
    }
    return schema, st.fixed_dictionaries({f"f{at}": v for at, (_, v) in enumerate(fields)})


@st.composite
def records(draw: Any, rows: int = 4) -> tuple[Any, list[Any]]:
    fields = draw(st.lists(typed(), min_size=1, max_size=4))
    names = [f"f{at}" for at in range(len(fields))]
    schema = {
        "type": "record",
        "name": "Top",
        "fields": [{"name": n, "type": each} for n, (each, _) in zip(names, fields, strict=True)],
    }
    row = st.fixed_dictionaries(
        {name: values for name, (_, values) in zip(names, fields, strict=True)}
    )
    try:
        fastavro.parse_schema(json.loads(json.dumps(schema)))
    except fastavro.schema.SchemaParseException:
        assume(False)  # two types of one name
    return schema, draw(st.lists(row, max_size=rows))


def plain(value: Any, type_: AvroType) -> Any:
    """A value of fastavro as a column has it."""
    if type_.kind == "union":
        if value is None:
            return None
        if len(type_.branches) == 1:
            return plain(value, type_.branches[0])
        name = {bool: "boolean", int: "long", str: "string"}[type(value)]
        return {each: value if each == name else None for each in type_.branch_names}
    match type_.kind:
        case "array":
            assert type_.item is not None
            return [plain(each, type_.item) for each in value]
        case "map":
            assert type_.item is not None
            return [{"key": k, "value": plain(v, type_.item)} for k, v in value.items()]
        case "record":
            return {f.name: plain(value[f.name], f.type) for f in type_.fields}
        case "float":
            return pl.Series([value], dtype=pl.Float32)[0]
    return value


@given(records())
@settings(max_examples=150, deadline=None)
def test_what_fastavro_writes_is_read_and_comes_back_byte_for_byte(case: tuple[Any, list[Any]]):
    schema, rows = case
    type_ = parse(json.dumps(schema))
    messages = [written(schema, row) for row in rows]
    decoded = AvroDecoder(type_).decode(series(messages))
    assert dict(decoded.rows.schema) == dict(type_.schema().to_polars())
    assert decoded.bad.height == 0
    assert decoded.rows.to_dicts() == [plain(row, type_) for row in rows]
    encoded = AvroEncoder(type_.schema(), type_).encode(decoded.rows)
    assert encoded.bad.height == 0
    assert encoded.values.to_list() == messages


@given(records(rows=3), st.data())
@settings(max_examples=100, deadline=None)
def test_reading_together_gives_what_reading_one_by_one_gives(
    case: tuple[Any, list[Any]], data: st.DataObject
):
    """Also with cut and changed messages among them, and none is read that the specification forbids."""
    schema, rows = case
    messages = [written(schema, row) for row in rows] * 15
    for _ in range(data.draw(st.integers(0, 3))) if messages else ():
        at = data.draw(st.integers(0, len(messages) - 1))
        message = bytearray(messages[at])
        where = data.draw(st.integers(0, len(message)))
        match data.draw(st.sampled_from(["cut", "more", "change"])):
            case "cut":
                message = message[:where]
            case "more":
                message[where:where] = data.draw(st.binary(max_size=4))
            case "change" if where < len(message):
                message[where] = data.draw(st.integers(0, 255))
        messages[at] = bytes(message)
    type_ = parse(json.dumps(schema))
    reader = WireReader(type_)
    together, places, errors = reader.read(messages)
    alone: list[Any] = []
    for at, message in enumerate(messages):
        row, place, error = reader.read([message])
        assert (at in errors) == bool(error)
        assert (at in places) == bool(place.len())
        alone.append(row)
    expected = pl.concat(alone) if alone else together
    assert together.equals(expected, null_equal=True)


ORDER = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "name", "type": "string"},
        {"name": "note", "type": ["null", "string"]},
        {"name": "flag", "type": "boolean"},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
        {"name": "count", "type": "int"},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
    ],
}
ROW = {
    "id": 1, "name": "x", "note": "n", "flag": True, "kind": "B", "count": 3, "tags": ["t"],
}  # fmt: skip
TYPE = parse(json.dumps(ORDER))


def head(**changes: Any) -> bytes:
    return written(ORDER, ROW | changes)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (b"", "it ends before the schema does"),
        (head()[:-1], "it ends before the schema does"),
        (head() + b"\0", "1 bytes follow the last field"),
        (b"\x02" + b"\xff\xff\xff\xff\x0f" + b"x", "announced"),
        (b"\x02\x01", "announced"),
        (b"\x02\x04\xff\xfe" + head()[3:], "not valid UTF-8"),
        (b"\xff" * 11 + head(), "more than 64 bits"),
        (head().replace(b"\x02\x02n", b"\x04\x02n", 1), "branch 2 of a union with 2"),
        (head().replace(b"\x02n\x01", b"\x02n\x02", 1), "a boolean is 2"),
        (head().replace(b"\x02n\x01\x02", b"\x02n\x01\x06", 1), "it is not a symbol of the enum"),
    ],
)
def test_bytes_that_are_not_of_the_schema_are_bad(message: bytes, problem: str):
    """In a batch that is read as columns, and alone."""
    decoder = AvroDecoder(TYPE)
    for before in (0, 60):
        batch = [head(id=at) for at in range(before)] + [message, None, head(id=-1)]
        decoded = decoder.decode(series(batch))
        assert decoded.rows["id"].to_list() == [*range(before), -1]
        assert decoded.message.to_list() == [*range(before), before + 2]
        (bad,) = decoded.bad.rows()
        assert bad[0] == before
        assert bad[1] == "E0570"
        assert problem in bad[2]
        assert bad[3] == message


def test_an_int_beyond_32_bits_is_bad():
    wide = json.loads(json.dumps(ORDER).replace('"int"', '"long"'))
    message = written(wide, ROW | {"count": 2**40})
    for before in (0, 60):
        decoded = AvroDecoder(TYPE).decode(series([head()] * before + [message]))
        assert decoded.rows.height == before
        assert decoded.bad["message"].to_list() == [before]


def test_blocks_of_items_are_read_in_each_form():
    """With their size, and in several blocks, as the specification allows."""
    plain_ = head(tags=["a", "b"])
    assert plain_.endswith(b"\x04\x02a\x02b\x00")
    start = plain_[: -len(b"\x04\x02a\x02b\x00")]
    sized = start + b"\x03\x08\x02a\x02b\x00"
    several = start + b"\x02\x02a\x02\x02b\x00"
    wrong = start + b"\x03\x0a\x02a\x02b\x00"
    decoded = AvroDecoder(TYPE).decode(series([plain_] * 40 + [sized, several, wrong]))
    assert decoded.rows["tags"].to_list() == [["a", "b"]] * 42
    assert decoded.bad["message"].to_list() == [42]


def test_many_bad_messages_are_found_among_many_good_ones():
    batch = [head(id=at) if at % 7 else head(id=at)[:-2] for at in range(2_000)]
    decoded = AvroDecoder(TYPE).decode(series(batch))
    assert decoded.bad["message"].to_list() == [*range(0, 2_000, 7)]
    assert decoded.rows["id"].to_list() == [at for at in range(2_000) if at % 7]


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ("nonsense {", "not JSON"),
        ('{"type": "record", "name": "R"}', "no list of fields"),
        ('{"type": "array", "items": "int"}', "not record"),
        ('{"type": "record", "name": "R", "fields": []}', "no field with a value"),
        (
            '{"type": "record", "name": "R", "fields": [{"name": "n", "type": ["null", "R"]}]}',
            "contains itself",
        ),
        (
            '{"type": "record", "name": "R", "fields": [{"name": "n", "type": "Other"}]}',
            "unknown type 'Other'",
        ),
        (
            '{"type": "record", "name": "R", "fields": [{"name": "n", "type": '
            '{"type": "array", "items": "null"}}]}',
            "take no bytes",
        ),
        (
            '{"type": "record", "name": "R", "fields": [{"name": "n", "type": {"type": "bytes", '
            '"logicalType": "decimal", "precision": 40}}]}',
            "40 digits",
        ),
        ("[" * 500, "not JSON"),
        (
            '{"type": "record", "name": "R", "fields": [{"name": "n", "type": '
            + '{"type": "array", "items": ' * 200
            + '"int"'
            + "}" * 200
            + "}]}",
            "nested deeper",
        ),
    ],
)
def test_a_schema_that_cannot_be_used_says_why(schema: str, problem: str):
    with pytest.raises(ConfigError, match=problem) as caught:
        parse(schema)
    assert caught.value.code == "E0421"


def test_named_types_of_references_are_found():
    address = '{"type": "record", "name": "Address", "namespace": "x", "fields": [{"name": "zip", "type": "string"}]}'
    top = '{"type": "record", "name": "P", "namespace": "x", "fields": [{"name": "a", "type": "Address"}]}'
    assert str(parse(top, [address]).schema()["a"]) == "struct<zip: string>"


# --- another reader's schema ----------------------------------------------------------------------


def record(**fields: Any) -> dict[str, Any]:
    each = [
        {"name": n, **(t if isinstance(t, dict) and "default" in t else {"type": t})}
        for n, t in fields.items()
    ]
    return {"type": "record", "name": "R", "fields": each}


@pytest.mark.parametrize(
    ("writer", "reader", "row", "expected"),
    [
        ({"a": "int"}, {"a": "long"}, {"a": 5}, {"a": 5}),
        ({"a": "int"}, {"a": "double"}, {"a": 5}, {"a": 5.0}),
        ({"a": "float"}, {"a": "double"}, {"a": 1.5}, {"a": 1.5}),
        ({"a": "string"}, {"a": "bytes"}, {"a": "é"}, {"a": "é".encode()}),
        ({"a": "int"}, {"a": ["null", "int"]}, {"a": 5}, {"a": 5}),
        ({"a": ["null", "int"]}, {"a": "int"}, {"a": 5}, {"a": 5}),
        ({"a": "int", "b": "int"}, {"b": "int"}, {"a": 1, "b": 2}, {"b": 2}),
        (
            {"a": "int"},
            {"a": "int", "b": {"type": "string", "default": "new"}},
            {"a": 1},
            {"a": 1, "b": "new"},
        ),
        (
            {"a": "int"},
            {"b": {"type": {"type": "array", "items": "int"}, "default": [1]}},
            {"a": 1},
            {"b": [1]},
        ),
        (
            {"a": {"type": "enum", "name": "E", "symbols": ["X", "Y"]}},
            {"a": {"type": "enum", "name": "E", "symbols": ["Y", "Z"], "default": "Z"}},
            {"a": "X"},
            {"a": "Z"},
        ),
    ],
)
def test_the_readers_schema_decides(writer: Any, reader: Any, row: Any, expected: Any):
    writer, reader = record(**writer), record(**reader)
    if '"enum"' in json.dumps(reader):
        reader["fields"][0] = {"name": "a", "type": {k: v for k, v in reader["fields"][0].items() if k != "name"} | {"name": "E"}}  # fmt: skip
    message = written(writer, row)
    decoder = AvroDecoder(parse(json.dumps(reader)), writer=parse(json.dumps(writer)))
    decoded = decoder.decode(series([message, message]))
    assert decoded.rows.to_dicts() == [expected] * 2
    theirs = fastavro.schemaless_reader(
        io.BytesIO(message),
        fastavro.parse_schema(json.loads(json.dumps(writer))),
        fastavro.parse_schema(json.loads(json.dumps(reader))),
    )
    assert theirs == expected


def test_values_that_the_readers_schema_would_change_are_bad():
    writer = parse(json.dumps(record(a="long")))
    decoder = AvroDecoder(parse(json.dumps(record(a="double"))), writer=writer)
    messages = [written(record(a="long"), {"a": each}) for each in (2**53, 2**53 + 1)]
    decoded = decoder.decode(series(messages))
    assert decoded.rows["a"].to_list() == [2.0**53]
    assert "would round" in decoded.bad["error"][0]
    optional = record(a=["null", "long"])
    decoder = AvroDecoder(writer, writer=parse(json.dumps(optional)))
    decoded = decoder.decode(series([written(optional, {"a": each}) for each in (None, 1)]))
    assert decoded.rows["a"].to_list() == [1]
    assert "it is null" in decoded.bad["error"][0]


def test_a_field_that_is_left_out_is_told():
    decoder = AvroDecoder(
        parse(json.dumps(record(a="int"))), writer=parse(json.dumps(record(a="int", b="int")))
    )
    decoded = decoder.decode(series([b"\x02\x04", b"\x02\x06"]))
    assert dict(decoded.warnings) == {
        "field 'b' of the writer's schema is not among the columns, and was left out": 2
    }


@pytest.mark.parametrize(
    ("writer", "reader", "problem"),
    [
        ({"a": "int"}, {"b": "int"}, "no field 'b', which has no default"),
        ({"a": "string"}, {"a": "int"}, "it is string there and int here"),
        ({"a": "null", "b": "int"}, {"a": "int"}, "null is not among its types"),
    ],
)
def test_schemas_that_do_not_fit_are_refused(writer: Any, reader: Any, problem: str):
    with pytest.raises(ConfigError, match=problem) as caught:
        AvroDecoder(parse(json.dumps(record(**reader))), writer=parse(json.dumps(record(**writer))))
    assert caught.value.code == "E0422"


# --- ids ------------------------------------------------------------------------------------------


def test_each_message_is_read_with_the_schema_of_its_id():
    schemas = {1: record(a="int"), 2: record(b="string", a="long"), 4: record(b="string")}

    def writer_of(id_: int) -> AvroType:
        if id_ not in schemas:
            raise DataError(f"the registry has no schema {id_}", code="E0571", help="look at it")
        return parse(json.dumps(schemas[id_]))

    decoder = AvroDecoder(parse(json.dumps(record(a="long"))), writer_of=writer_of)
    batch = [
        b"\0\0\0\0\x01" + written(schemas[1], {"a": 1}),
        b"\0\0\0\0\x02" + written(schemas[2], {"a": 2, "b": "x"}),
        None,
        b"\0\0\0\0\x03" + b"whatever",
        b"\0\0\0\0\x01" + written(schemas[1], {"a": 5}),
        b"\0\0\0",
        b"no id at all",
        b"\0\0\0\0\x04" + written(schemas[4], {"b": "x"}),
    ]
    decoded = decoder.decode(series(batch))
    assert decoded.rows["a"].to_list() == [1, 2, 5]
    assert decoded.message.to_list() == [0, 1, 4]
    assert decoded.bad["message"].to_list() == [3, 5, 6, 7]
    assert decoded.bad["code"].to_list() == ["E0571"] * 4
    assert "no schema 3" in decoded.bad["error"][0]
    assert "no field 'a'" in decoded.bad["error"][3]
    assert decoded.bad["value"].to_list() == [batch[at] for at in (3, 5, 6, 7)]


# --- encoding -------------------------------------------------------------------------------------


def test_rows_of_every_type_come_back_through_a_schema_of_their_own():
    schema = Schema.of(
        {
            "i8": "int8", "u32": "uint32", "u64": "uint64", "f32": "float32", "f64": "float64",
            "b": "bool", "s": "string", "x": "binary", "d": "date", "t": "time",
            "ts": "timestamp[us, UTC]", "ms": "timestamp[ms]", "ns": "timestamp[ns, UTC]",
            "dec": "decimal(38, 10)", "l": "list<list<int64>>", "st": "struct<a: int64, b: list<string>>",
        }
    )  # fmt: skip
    row = {
        "i8": -128, "u32": 2**32 - 1, "u64": 2**64 - 1, "f32": 1.5, "f64": math.inf, "b": True,
        "s": "é\0", "x": b"\xff", "d": datetime.date(1, 1, 1), "t": datetime.time(23, 59, 59, 999999),
        "ts": datetime.datetime(2024, 1, 1, tzinfo=UTC), "ms": datetime.datetime(2024, 1, 1),
        "ns": datetime.datetime(2024, 1, 1, tzinfo=UTC), "dec": Decimal("-1234567890.0123456789"),
        "l": [[1, None], [], None], "st": {"a": None, "b": ["x", None]},
    }  # fmt: skip
    rows = pl.DataFrame([row, dict.fromkeys(row)], schema=schema.to_polars())
    text = schema_of(schema, "Row")
    fastavro.parse_schema(json.loads(text))
    type_ = parse(text)
    encoded = AvroEncoder(schema, type_).encode(rows)
    assert encoded.bad.height == 0
    decoded = AvroDecoder(type_).decode(encoded.values)
    wide = decoded.rows.with_columns(pl.col("i8").cast(pl.Int8), pl.col("u32").cast(pl.UInt32), pl.col("u64").cast(pl.UInt64))  # fmt: skip
    assert wide.equals(rows)


def test_rows_that_the_schema_does_not_hold_are_bad():
    rows = pl.DataFrame(
        {
            "id": [1, 2, 3, 4, 5, 6],
            "count": [1, 2**40, 3, 4, 5, None],
            "kind": ["A", "A", "C", "A", "A", "A"],
            "tags": [["x"], [], [], ["x", None], [], []],
        },
        schema={"id": pl.Int64, "count": pl.Int64, "kind": pl.String, "tags": pl.List(pl.String)},
    )
    fields = [f for f in ORDER["fields"] if f["name"] in rows.columns]
    type_ = parse(json.dumps({**ORDER, "fields": fields}))
    encoded = AvroEncoder(Schema.from_polars(rows.schema), type_).encode(rows)
    assert encoded.values.is_null().to_list() == [False, True, True, True, False, True]
    assert encoded.bad["message"].to_list() == [1, 2, 3, 5]
    assert encoded.bad["code"].to_list() == ["E0572"] * 4
    assert encoded.bad["error"].to_list() == [
        "column 'count': it is not an int",
        "column 'kind': it is not a symbol of the enum Kind",
        "column 'tags': in its items, it is NULL, and the schema has no null there",
        "column 'count': it is NULL, and the schema has no null there",
    ]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"a": "int64", "b": "int64"}, "no field 'b'"),
        ({}, "its field 'a' is not among the columns"),
        ({"a": "string"}, "it is string, and the schema has long there"),
    ],
)
def test_columns_that_do_not_fit_the_schema_are_refused(columns: Any, problem: str):
    with pytest.raises(ConfigError, match=problem):
        AvroEncoder(Schema.of(columns), parse(json.dumps(record(a="long"))))


def test_text_that_looks_like_a_mark_is_written_as_it_is():
    """Marks are chance bytes, so no text of a row can cut a message."""
    type_ = parse(json.dumps(record(a="bytes", b={"type": "array", "items": "bytes"})))
    writer = WireWriter(type_)
    odd = [b"\x02\x1c" * 20, b"\0" * 40, bytes(range(256)), b""]
    rows = pl.DataFrame({"a": odd, "b": [odd, [], odd[:1], [b""]]})
    assert WireReader(type_).read(writer.write(rows).to_list())[0].equals(rows)
