"""Types: their text, their Polars type, and how wrong ones are refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.errors import DataError, WorkflowError
from dataflare.model import types as t
from dataflare.model.types import DataType, Schema, from_polars, parse_type

UNITS = st.sampled_from(["s", "ms", "us", "ns"])
PLAIN = st.sampled_from(
    [*t.INTEGERS, *t.FLOATS, "bool", "string", "binary", "date", "time", "json"]
)
LEAVES = (
    PLAIN.map(DataType)
    | st.builds(t.timestamp, UNITS, st.sampled_from([None, "UTC", "Etc/GMT+5", "Europe/Berlin"]))
    | st.builds(t.duration, UNITS)
    | st.integers(1, 38).flatmap(lambda p: st.builds(t.decimal, st.just(p), st.integers(0, p)))
)
FIELDS = st.text(min_size=1, max_size=6)
TYPES = st.recursive(
    LEAVES,
    lambda inner: (
        inner.map(t.list_of)
        | st.dictionaries(FIELDS, inner, min_size=1, max_size=3).map(t.struct_of)
    ),
    max_leaves=5,
)


@given(TYPES)
@settings(derandomize=True, deadline=None)
def test_a_type_is_read_back_from_its_text(type_: DataType):
    assert parse_type(str(type_)) == type_


@given(TYPES)
@settings(derandomize=True, deadline=None)
def test_a_type_comes_back_from_polars_but_for_what_polars_has_not(type_: DataType):
    def held(type_: DataType) -> DataType:
        match type_.name:
            case "json":
                return t.STRING
            case "timestamp" | "duration" if type_.unit == "s":
                return DataType(type_.name, unit="ms", timezone=type_.timezone)
            case "list":
                assert type_.item is not None
                return t.list_of(held(type_.item))
            case "struct":
                return t.struct_of({field.name: held(field.type) for field in type_.fields})
        return type_

    assert from_polars(type_.to_polars()) == held(type_)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("  int64 ", "int64"),
        ("timestamp", "timestamp[us]"),
        ("duration", "duration[us]"),
        ("decimal(10)", "decimal(10, 0)"),
        ("decimal( 10 ,2 )", "decimal(10, 2)"),
        ("timestamp[ms,UTC]", "timestamp[ms, UTC]"),
        ("timestamp[us, 'Europe/Berlin']", "timestamp[us, Europe/Berlin]"),
        ("struct<a:int64,'b c':list<string>>", 'struct<a: int64, "b c": list<string>>'),
        ('struct<"say ""a""": int8>', 'struct<"say ""a""": int8>'),
    ],
)
def test_types_may_be_written_freely(text: str, plain: str):
    assert str(parse_type(text)) == plain


@pytest.mark.parametrize(
    ("text", "help"),
    [
        ("int46", "did you mean 'int64'?"),
        ("str", "did you mean 'string'?"),
        ("Int64", "did you mean 'int64'?"),
        ("list", None),
        ("", None),
        ("int64 int64", None),
        ("list<int64", None),
        ("list<<", None),
        ("decimal(39, 2)", None),
        ("decimal(5, 6)", None),
        ("decimal(a, 2)", None),
        ("decimal(-1)", None),
        ("timestamp[h]", None),
        ("timestamp[us, Mars/Base]", None),
        ("duration[us, UTC]", None),
        ("struct<>", None),
        ("struct<a: int64, a: int64>", None),
        ("struct<a int64>", None),
        ("'int64'", None),
        ("int64 $", None),
    ],
)
def test_what_is_no_type_is_refused(text: str, help: str | None):
    with pytest.raises(WorkflowError) as caught:
        parse_type(text)
    assert caught.value.code == "E0112"
    assert caught.value.message == f"unknown type '{text}'"
    if help:
        assert caught.value.help == help


def test_categories_are_text_and_arrays_are_lists():
    assert from_polars(pl.Categorical()) == t.STRING
    assert from_polars(pl.Enum(["a"])) == t.STRING
    assert from_polars(pl.Array(pl.Int8, 3)) == t.list_of(t.INT8)


def test_types_that_polars_alone_has_become_the_nearest():
    assert from_polars(pl.Float16()) == t.FLOAT32
    assert from_polars(pl.Int128()) == from_polars(pl.UInt128()) == t.decimal(38, 0)
    entry = t.struct_of({"key": t.STRING, "value": t.INT8})
    assert from_polars(pl.Map(pl.String(), pl.Int8())) == t.list_of(entry)


def test_a_polars_type_that_cannot_be_held_is_refused_with_its_column():
    with pytest.raises(DataError, match="column 'b' has the type Object") as caught:
        Schema.from_polars({"a": pl.Int8(), "b": pl.Object()})
    assert caught.value.code == "E0509"


def nested(depth: int) -> DataType:
    """Lists and structs inside each other."""
    type_ = t.INT8
    for level in range(depth):
        type_ = t.struct_of({"a": type_}) if level % 2 else t.list_of(type_)
    return type_


@pytest.fixture(params=[1, 20], ids=["usual stack", "large stack"])
def stack(request: pytest.FixtureRequest) -> Iterator[None]:
    """The bound does not depend on how many calls Python allows inside each other."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(request.param * usual)
    yield
    sys.setrecursionlimit(usual)


@pytest.mark.usefixtures("stack")
def test_types_are_nested_up_to_a_bound_of_their_own():
    deepest, beyond = nested(t.NESTED_MAX), nested(t.NESTED_MAX + 1)
    assert parse_type(str(deepest)) == from_polars(deepest.to_polars()) == deepest
    with pytest.raises(WorkflowError, match=f"deeper than {t.NESTED_MAX}") as unread:
        parse_type(str(beyond))
    assert unread.value.code == "E0112"
    assert len(unread.value.message) < 200
    with pytest.raises(DataError, match="column 'deep'") as unheld:
        Schema.from_polars({"deep": beyond.to_polars()})
    assert unheld.value.code == "E0509"
    assert len(unheld.value.message) < 200


def test_a_struct_of_many_fields_has_no_bound():
    many = t.struct_of({f"c{n}": t.INT8 for n in range(20_000)})
    assert parse_type(str(many)) == many


def test_a_schema_keeps_order_and_selects_by_name():
    schema = Schema.of({"a": "int64", "b": t.STRING, "c": "list<int8>"})
    assert schema.select(["c", "a"]).to_json() == {"c": "list<int8>", "a": "int64"}
    assert ("b" in schema, "d" in schema, len(schema)) == (True, False, 3)
    assert Schema.from_polars(schema.to_polars()) == schema
    with pytest.raises(KeyError):
        schema["d"]
