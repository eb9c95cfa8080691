"""The types of columns of text; the quick and the lenient reading agree."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.formats.csv_read import CsvDialect, CsvPlan
from dataflare.formats.text_types import TextColumn, infer, loose, with_contract
from dataflare.model.types import STRING, Schema, parse_type


def type_of(*texts: str | None) -> str:
    return str(infer(pl.DataFrame({"a": texts}, schema={"a": pl.String}))[0].type)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1", "-2", "3", None], "int64"),
        (["1", "-2", "+3", None], "string"),
        (["+4915112345678"], "string"),
        (["+1.5", "2"], "string"),
        (["9007199254740993", "1.5"], "string"),
        (["9007199254740992", "1.5"], "float64"),
        (["0.1000000000000000055511151231257827", "1.0"], "float64"),
        (["0.10000000000000000001", "1.0"], "string"),
        (["1e5", "2E-3", "1e400"], "string"),
        (["0", "-0"], "int64"),
        (["9223372036854775807"], "int64"),
        (["9223372036854775808"], "string"),
        (["007", "8"], "string"),
        (["-01"], "string"),
        (["1.5", "2", ".5", "5.", "1e3", "-1E-3"], "float64"),
        (["0.5"], "float64"),
        (["00.5"], "string"),
        (["1.5", "nan", "inf", "-Infinity"], "float64"),
        (["nan", "inf"], "string"),
        (["1_000"], "string"),
        (["1,5"], "string"),
        (["true", "False", "TRUE"], "bool"),
        (["yes", "no"], "string"),
        (["2024-02-29"], "date"),
        (["2023-02-29"], "string"),
        (["2024-01-01", "01.01.2024"], "string"),
        (["2024-01-01T00:00:00"], "timestamp[us]"),
        (["2024-01-01 00:00"], "timestamp[us]"),
        (["2024-01-01T00:00:00Z"], "timestamp[us, UTC]"),
        (["2024-01-01T00:00:00.123+02:00", "2024-01-01T00:00:00.5-0500"], "timestamp[us, UTC]"),
        (["2024-01-01T00:00:00", "2024-01-01T00:00:00.5"], "timestamp[us]"),
        (["2024-01-01T00:00:00", "2024-01-01T00:00:00Z"], "string"),
        (["2024-01-01T00:00:00", "2024-01-01 00:00:00"], "string"),
        (["2024-01-01T00:00:00", "2024-01-01"], "string"),
        (["2024-13-01T00:00:00"], "string"),
        (["2024-01-01T00:00:00.123456789", "2024-01-01T00:00:00.5"], "timestamp[ns]"),
        (["2024-01-01T00:00:00.000000001Z"], "timestamp[ns, UTC]"),
        (["2024-01-01T00:00:00.123456000"], "timestamp[us]"),
        (["2924-01-01T00:00:00.123456789"], "string"),
        ([None, None], "string"),
        (["", None], "string"),
        (["1", ""], "int64"),
    ],
)
def test_a_column_gets_the_type_that_all_its_texts_have(texts, expected):
    assert type_of(*texts) == expected


def quick(column: TextColumn, text: str) -> object:
    """What the quick way makes of one cell; an error counts as such."""
    plan = CsvPlan(CsvDialect(), (column, TextColumn("z", STRING)), (column.name,))
    try:
        return plan.scan(f"{text},z\n".encode()).collect().item()
    except pl.exceptions.PolarsError:
        return "error"


def lenient(column: TextColumn, text: str) -> object:
    return pl.DataFrame({column.name: [text]}).select(loose(column)).item()


STAMPS = ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.%6f", None]
TYPES = ["int64", "int32", "uint64", "float64", "float32", "bool", "date", "decimal(10, 2)"]
TYPES += ["timestamp[us, UTC]", "timestamp[us]", "timestamp[ms]", "time", "int8", "uint16"]
CELLS = st.one_of(
    st.sampled_from(
        ["1e999999", "-1e400", "inf", "NaN", " 7", "7 ", "+7", "300", "-1", "1.239", "12:30:00"]
    ),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.booleans().map(str),
    st.dates().map(str),
    st.datetimes().map(lambda t: t.isoformat()),
    st.datetimes().map(lambda t: t.isoformat(" ") + "Z"),
    st.text("0123456789-+.:TZeE ", min_size=1, max_size=20),
)


@given(st.sampled_from(TYPES), st.sampled_from(STAMPS), CELLS)
def test_what_the_quick_way_accepts_the_lenient_way_reads_the_same(type_, format_, text):
    if not type_.startswith("timestamp"):
        format_ = None
    column = TextColumn("a", parse_type(type_), format_, declared=True)
    value = quick(column, text)
    if value != "error":
        assert pl.Series([lenient(column, text)]).equals(pl.Series([value]))


@pytest.mark.rotates(2)
@given(
    st.lists(st.tuples(CELLS, CELLS | st.just(""), CELLS), min_size=1, max_size=8),
    st.tuples(*[st.sampled_from(TYPES)] * 3),
    st.sampled_from(STAMPS),
    st.booleans(),
)
def test_a_chunk_salvaged_is_its_rows_read_one_by_one(rows, types, format_, last_ends):
    """For any number of fields that are read twice, and for both ways to find the lines."""
    columns = tuple(
        TextColumn(name, parse_type(type_), format_ if type_.startswith("time") else None)
        for name, type_ in zip("abc", types, strict=True)
    )
    plan = CsvPlan(CsvDialect(), columns, tuple("abc"))
    lines = [",".join(row).encode() for row in rows]
    data = b"\n".join(lines) + (b"\n" if last_ends else b"")
    alone = [plan.salvage(line, str) for line in lines]
    for count in (None, len(rows)):
        result = plan.salvage(data, str, count)
        assert result.good.equals(pl.concat([each.good for each in alone]))
        assert result.good_rows.to_list() == [i for i, each in enumerate(alone) if not each.bad]
        assert [(bad.row, bad.place, bad.message, bad.raw) for bad in result.bad] == [
            (i, str(i), each.bad[0].message, each.bad[0].raw)
            for i, each in enumerate(alone)
            if each.bad
        ]


def test_an_overflowing_float_is_not_infinity():
    column = TextColumn("a", parse_type("float64"))
    assert quick(column, "1e999999") == "error"
    assert lenient(column, "1e999999") is None
    assert lenient(column, "-inf") == float("-inf")


def test_a_negative_zero_keeps_its_sign():
    assert str(quick(TextColumn("a", parse_type("float64")), "-0.0")) == "-0.0"


@pytest.mark.parametrize(
    ("type_", "text", "expected"),
    [
        ("timestamp[us, UTC]", "2024-01-01T02:00:00+02:00", datetime(2024, 1, 1)),
        ("timestamp[us, UTC]", "2024-01-01 00:00:00", datetime(2024, 1, 1)),
        ("timestamp[us, UTC]", "2024-01-01", datetime(2024, 1, 1)),
        ("timestamp[us, UTC]", "2024-01-01T00:00Z", datetime(2024, 1, 1)),
        ("timestamp[us]", "2024-01-01T00:00:00.000001", datetime(2024, 1, 1, 0, 0, 0, 1)),
        ("timestamp[us]", "2024-01-01T02:00:00+02:00", datetime(2024, 1, 1)),
        ("date", "2024-01-01", date(2024, 1, 1)),
        ("duration[us]", "1500000", timedelta(seconds=1.5)),
        ("binary", "aGk=", b"hi"),
        ("list<int64>", "[1, 2]", [1, 2]),
        ("struct<a: int64>", '{"a": 3}', {"a": 3}),
    ],
)
def test_a_contract_reads_every_usual_spelling(type_, text, expected):
    column = TextColumn("a", parse_type(type_), declared=True)
    value = lenient(column, text)
    if isinstance(value, pl.Series):
        value = value.to_list()
    if isinstance(value, datetime) and value.tzinfo is not None:
        assert value.utcoffset() == timedelta(0)
        value = value.astimezone(UTC).replace(tzinfo=None)
    assert value == expected


@pytest.mark.parametrize("type_", ["list<int64>", "struct<a: int64>", "binary", "time", "bool"])
def test_the_lenient_way_never_raises(type_):
    column = TextColumn("a", parse_type(type_))
    frame = pl.DataFrame({"a": ["[1]", "nonsense", None, "", "{", '{"a": "x"}']})
    assert frame.select(loose(column))["a"].len() == 6


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        ("timestamp[us]", "2024-01-01T00:00:00Z"),
        ("timestamp[us, UTC]", "2024-01-01T00:00:00"),
        ("timestamp[us, UTC]", "2024-01-01"),
    ],
)
def test_a_zone_is_neither_guessed_nor_dropped(type_, text):
    assert lenient(TextColumn("a", parse_type(type_)), text) is None


def test_a_contract_keeps_what_the_sample_told():
    inferred = infer(pl.DataFrame({"a": ["2024-01-01T00:00:00Z"], "b": ["1"]}))
    columns = with_contract(inferred, Schema.of({"a": "timestamp[ms, UTC]", "b": "string"}))
    assert [(c.name, str(c.type), c.format) for c in columns] == [
        ("a", "timestamp[ms, UTC]", "%Y-%m-%dT%H:%M:%SZ"),
        ("b", "string", None),
    ]


def test_a_column_survives_json():
    column = TextColumn("a", parse_type("timestamp[us, UTC]"), "%Y-%m-%dT%H:%M:%SZ", True, True)
    assert TextColumn.from_json(column.to_json()) == column
