"""Each Arrow type in a Parquet and in an Arrow file: read exactly, or refused with file and column."""

from __future__ import annotations

import datetime as dt
import json
import sys
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
from file_kit import read

from dataflare.connectors.file.errors import file_errors
from dataflare.errors import DataFlareError

BERLIN = "Europe/Berlin"
ID = uuid.UUID("8ad90f12-5ece-45a6-8d29-9162958d78ea")
IDS = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([ID.bytes, None, ID.bytes], pa.binary(16)))
LIMITS = {
    name: [low, high, None]
    for bits in (8, 16, 32, 64)
    for name, low, high in (
        (f"int{bits}", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1),
        (f"uint{bits}", 0, 2**bits - 1),
    )
}
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
ENTRIES = "list<struct<key: string, value: float32>>"
SECOND = dt.datetime(2024, 1, 1, 10, 30, 15)
UTC_SECOND = SECOND.replace(tzinfo=dt.UTC)

HELD: dict[str, tuple[pa.Array, str, list[Any]]] = {
    **{
        name: (pa.array(values, pa.type_for_alias(name)), name, values)
        for name, values in LIMITS.items()
    },
    "half": (pa.array([1.5, -65504.0, None], pa.float16()), "float32", [1.5, -65504.0, None]),
    "float": (pa.array([3.4e38, None], pa.float32()), "float32", [3.3999999521443642e38, None]),
    "double": (pa.array([5e-324, None]), "float64", [5e-324, None]),
    "bool": (pa.array([True, None]), "bool", [True, None]),
    "null": (pa.nulls(2), "string", [None, None]),
    "decimal32": (pa.array([Decimal("-1.50")], pa.decimal32(5, 2)), "decimal(5, 2)", [Decimal("-1.50")]),
    "decimal64": (pa.array([Decimal("1.50")], pa.decimal64(12, 2)), "decimal(12, 2)", [Decimal("1.50")]),
    "decimal128": (
        pa.array([Decimal(10**38 - 1), Decimal(1 - 10**38)], pa.decimal128(38, 0)),
        "decimal(38, 0)",
        [Decimal(10**38 - 1), Decimal(1 - 10**38)],
    ),
    "dictionary": (pa.array(["a", None, "b"]).dictionary_encode(), "string", ["a", None, "b"]),
    "dictionary of numbers": (pa.array([5, None]).dictionary_encode(), "int64", [5, None]),
    "large text": (pa.array(["ä", None], pa.large_string()), "string", ["ä", None]),
    "text view": (pa.array(["ä", None], pa.string_view()), "string", ["ä", None]),
    "large binary": (pa.array([b"\xff", None], pa.large_binary()), "binary", [b"\xff", None]),
    "binary view": (pa.array([b"\xff", None], pa.binary_view()), "binary", [b"\xff", None]),
    "fixed binary": (pa.array([b"\xff\x00", None], pa.binary(2)), "binary", [b"\xff\x00", None]),
    "date32": (pa.array([dt.date(2024, 2, 29), None]), "date", [dt.date(2024, 2, 29), None]),
    "date64": (
        pa.array([dt.date(2024, 2, 29)], pa.date64()),
        "timestamp[ms]",
        [dt.datetime(2024, 2, 29)],
    ),
    **{
        f"time {unit}": (pa.array([dt.time(23, 59, 59), None], type_), "time", [dt.time(23, 59, 59), None])
        for unit, type_ in (
            ("s", pa.time32("s")),
            ("ms", pa.time32("ms")),
            ("us", pa.time64("us")),
            ("ns", pa.time64("ns")),
        )
    },
    **{
        f"timestamp {unit}": (
            pa.array([SECOND, None], pa.timestamp(unit)),
            f"timestamp[{'ms' if unit == 's' else unit}]",
            [SECOND, None],
        )
        for unit in ("s", "ms", "us", "ns")
    },
    "timestamp UTC": (
        pa.array([UTC_SECOND], pa.timestamp("us", "UTC")),
        "timestamp[us, UTC]",
        [UTC_SECOND],
    ),
    "timestamp in a zone": (
        pa.array([UTC_SECOND], pa.timestamp("us", BERLIN)),
        f"timestamp[us, {BERLIN}]",
        [UTC_SECOND],
    ),
    "timestamp with an offset": (
        pa.array([UTC_SECOND], pa.timestamp("us", "+02:00")),
        "timestamp[us, Etc/GMT-2]",
        [UTC_SECOND],
    ),
    **{
        f"duration {unit}": (
            pa.array([dt.timedelta(days=-1), None], pa.duration(unit)),
            f"duration[{'ms' if unit == 's' else unit}]",
            [dt.timedelta(days=-1), None],
        )
        for unit in ("s", "ms", "us", "ns")
    },
    **{
        f"offset {zone}": (pa.array([0, None], pa.timestamp("us", zone)), f"timestamp[us, {name}]", [EPOCH, None])
        for zone, name in (("+02:00", "Etc/GMT-2"), ("-0800", "Etc/GMT+8"), ("+14:00", "Etc/GMT-14"), ("-12:00", "Etc/GMT+12"))
    },
    "list": (pa.array([[1, None], [], None]), "list<int64>", [[1, None], [], None]),
    "large list": (pa.array([[1], None], pa.large_list(pa.int8())), "list<int8>", [[1], None]),
    "fixed list": (pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), "list<int8>", [[1, 2], None]),
    "list of lists": (pa.array([[[1], None], None]), "list<list<int64>>", [[[1], None], None]),
    "struct": (
        pa.array([{"a": 1, "b": "x"}, None]),
        "struct<a: int64, b: string>",
        [{"a": 1, "b": "x"}, None],
    ),
    "map": (
        pa.array([[("k", 1.5), ("z", None)], [], None], pa.map_(pa.string(), pa.float16())),
        ENTRIES,
        [[{"key": "k", "value": 1.5}, {"key": "z", "value": None}], [], None],
    ),
    "map in a struct": (
        pa.array([{"m": [("k", 1.5)]}], pa.struct([("m", pa.map_(pa.string(), pa.float16()))])),
        f"struct<m: {ENTRIES}>",
        [{"m": [{"key": "k", "value": 1.5}]}],
    ),
    "uuid": (pa.array([ID.bytes, None], pa.uuid()), "string", [str(ID), None]),
    "uuid in a list": (pa.ListArray.from_arrays([0, 2, 3], IDS), "list<string>", [[str(ID), None], [str(ID)]]),
    "uuid in a fixed list": (
        pa.FixedSizeListArray.from_arrays(IDS[:2], 2),
        "list<string>",
        [[str(ID), None]],
    ),
    "uuid in a struct": (
        pa.StructArray.from_arrays([IDS, pa.array([1, 2, 3])], ["u", "n"]),
        "struct<u: string, n: int64>",
        [{"u": str(ID), "n": 1}, {"u": None, "n": 2}, {"u": str(ID), "n": 3}],
    ),
    "uuid in a map": (
        pa.MapArray.from_arrays([0, 1, 1], pa.array(["k"]), IDS[:1]),
        "list<struct<key: string, value: string>>",
        [[{"key": "k", "value": str(ID)}], []],
    ),
    "uuid in a list in a struct": (
        pa.StructArray.from_arrays([pa.ListArray.from_arrays([0, 3], IDS)], ["l"]),
        "struct<l: list<string>>",
        [{"l": [str(ID), None, str(ID)]}],
    ),
    "json": (pa.array(['{"a":1}', None], pa.json_()), "json", ['{"a":1}', None]),
    "bool8": (pa.array([1, None], pa.bool8()), "bool", [True, None]),
    "opaque": (pa.array([b"a", None], pa.opaque(pa.binary(), "t", "v")), "binary", [b"a", None]),
}  # fmt: skip

REFUSED: dict[str, tuple[pa.Array, str]] = {
    "decimal256": (pa.array([Decimal("1.5")], pa.decimal256(60, 2)), "60, 2"),
    "list view": (pa.array([[1]], pa.list_view(pa.int64())), "list_view"),
    "list view inside": (pa.array([{"a": [1]}], pa.struct([("a", pa.list_view(pa.int64()))])), "list_view"),
    "large list view": (pa.array([[1]], pa.large_list_view(pa.int64())), "large_list_view"),
    "union": (pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]), "union"),
    "dense union": (
        pa.UnionArray.from_dense(pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])]),
        "union",
    ),
    "run ends": (pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()), pa.array([7])), "run_end_encoded"),
    "interval": (pa.array([(1, 2, 3)], pa.month_day_nano_interval()), "interval"),
    "unknown zone": (pa.array([5], pa.timestamp("us", "Nowhere/Land")), "Nowhere/Land"),
    **{
        f"offset {zone}": (pa.array([5], pa.timestamp("us", zone)), zone)
        for zone in ("+05:30", "-03:30", "+05:45", "+0530", "+02", "-13:00", "+15:00", "+02:00:30", "+1:00")
    },
    "offset inside": (pa.array([[5]], pa.list_(pa.timestamp("us", "+05:30"))), "+05:30"),
}  # fmt: skip


def write(path: Path, column: pa.Array, **more: pa.Array) -> None:
    table = pa.table({"c": column, **more})
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path)
        return
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def refusal(*args: Any, **more: Any) -> DataFlareError:
    with pytest.raises(DataFlareError) as caught:
        read(*args, **more)
    return caught.value


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize("case", HELD)
def test_a_type_is_read_exactly(tmp_path, case, name):
    column, type_, values = HELD[case]
    write(tmp_path / name, column)
    found = read(name, tmp_path)
    assert found.bad == []
    assert [str(field.type) for field in _schema(found.frame)] == [_plain(type_)]
    assert found.frame["c"].to_list() == values


def _schema(frame: pl.DataFrame) -> Any:
    from dataflare.model.types import Schema

    return Schema.from_polars(frame.schema)


def _plain(type_: str) -> str:
    return type_.replace("json", "string")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize("case", REFUSED)
def test_another_type_is_refused_with_file_and_column(tmp_path, case, name):
    column, type_ = REFUSED[case]
    try:
        write(tmp_path / name, column, other=pa.array([1]))
    except pa.ArrowNotImplementedError:
        return  # pyarrow itself has no Parquet for it
    error = refusal(name, tmp_path)
    assert error.code == "E0509"
    assert error.message.startswith(f"{tmp_path / name}: column 'c' has the type ")
    assert type_ in error.message
    if case == "decimal256":
        assert read({"path": name, "columns": ["other"]}, tmp_path).frame.rows() == [(1,)]


def test_a_panic_of_polars_is_an_error_of_the_file(tmp_path):
    file = tmp_path / "a.parquet"
    write(file, pa.array([5], pa.timestamp("us", "+05:30")))
    with pytest.raises(DataFlareError) as caught, file_errors(file):
        pl.read_parquet_schema(file)
    assert caught.value.code == "E0505"
    assert "time zone: '+05:30'" in caught.value.message


@pytest.mark.parametrize(
    ("sql", "type_", "value"),
    [
        (f"'{ID}'::uuid", "string", str(ID)),
        ("'{\"a\": 1}'::json", "json", '{"a": 1}'),
        ("'a'::enum('a', 'b')", "string", "a"),
        ("'101'::bit", "string", "101"),
        (f"['{ID}'::uuid, NULL]", "list<string>", [str(ID), None]),
        (
            f"{{'u': ['{ID}'::uuid], 'n': 1}}",
            "struct<u: list<string>, n: int32>",
            {"u": [str(ID)], "n": 1},
        ),
        (
            f"map {{'{ID}'::uuid: '{ID}'::uuid}}",
            "list<struct<key: string, value: string>>",
            [{"key": str(ID), "value": str(ID)}],
        ),
        ("['[1]'::json]", "list<json>", ["[1]"]),
        ("map {'k': 1}", "list<struct<key: string, value: int32>>", [{"key": "k", "value": 1}]),
        ("[1, 2]::tinyint[2]", "list<int8>", [1, 2]),
        ("'10:00:00+02'::timetz", "time", dt.time(8)),
    ],
)
def test_what_duckdb_writes_to_parquet_is_read(tmp_path, sql, type_, value):
    duckdb.sql(f"COPY (SELECT {sql} AS c) TO '{tmp_path}/a.parquet'")
    found = read("a.parquet", tmp_path)
    assert str(_schema(found.frame)["c"]) == _plain(type_)
    assert found.frame["c"].to_list() == [value]


def test_an_interval_that_duckdb_writes_is_refused(tmp_path):
    duckdb.sql(f"COPY (SELECT INTERVAL '1 month' AS c) TO '{tmp_path}/a.parquet'")
    error = refusal("a.parquet", tmp_path)
    assert error.code == "E0509"
    assert "column 'c' has the type interval" in error.message


def test_a_uuid_may_stay_bytes(tmp_path):
    write(tmp_path / "a.parquet", pa.array([ID.bytes], pa.uuid()))
    found = read("a.parquet", tmp_path, contract={"c": "binary"})
    assert found.frame["c"].to_list() == [ID.bytes]


DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize("unit", DAY)
@pytest.mark.parametrize("ticks", [0, -1])
def test_a_time_that_no_day_has_is_refused(tmp_path, name, unit, ticks):
    """Polars reads it as NULL."""
    type_ = (pa.time32 if unit in ("s", "ms") else pa.time64)(unit)
    odd = ticks or DAY[unit]
    column = pa.array([None, 5, odd], pa.int32() if unit in ("s", "ms") else pa.int64()).view(type_)
    more = {
        "before": pa.array([{"a": 1}, None, None]),
        "words": pa.array(["a"] * 3).dictionary_encode(),
    }
    table = pa.table({**more, "c": column})
    if name == "a.parquet":
        pa.parquet.write_table(table, tmp_path / name)
    else:
        with pa.ipc.new_file(tmp_path / name, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    error = refusal(name, tmp_path)
    assert error.code == "E0509"
    assert error.message.startswith(f"{tmp_path / name}: column 'c' has a time outside of a day")
    others = read({"path": name, "columns": ["words"]}, tmp_path)
    assert others.frame.height == 3


SHAPES = {
    "plain": lambda times: times,
    "list": lambda times: pa.ListArray.from_arrays([0, 1, 3], times),
    "struct": lambda times: pa.StructArray.from_arrays([times], ["t"]),
    "list of structs": lambda times: pa.ListArray.from_arrays(
        [0, 3], pa.StructArray.from_arrays([times], ["t"])
    ),
}


def untold(tmp_path, name, shape, ticks):
    """A column of times of which the file has no statistics."""
    column = SHAPES[shape](pa.array([None, 5, ticks], pa.int64()).view(pa.time64("us")))
    table = pa.table({"c": column})
    if name == "a.parquet":
        pa.parquet.write_table(table, tmp_path / name, write_statistics=False)
    else:
        with pa.ipc.new_file(tmp_path / name, table.schema) as writer:
            writer.write_table(table)
    return column.to_pylist() if ticks < DAY["us"] else None


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_time_that_no_day_has_is_refused_where_the_file_does_not_tell(tmp_path, name, shape):
    untold(tmp_path, name, shape, DAY["us"])
    error = refusal(name, tmp_path)
    assert error.code == "E0509"
    assert "column 'c' has a time outside of a day" in error.message


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_null_times_are_read_where_the_file_does_not_tell(tmp_path, name, shape):
    values = untold(tmp_path, name, shape, DAY["us"] - 1)
    assert read(name, tmp_path).frame["c"].to_list() == values


def test_null_times_are_refused_without_pyarrow_where_the_file_does_not_tell(tmp_path, monkeypatch):
    untold(tmp_path, "a.parquet", "plain", DAY["us"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    error = refusal("a.parquet", tmp_path)
    assert error.code == "E0509"
    assert "pyarrow" in error.help


def test_the_last_time_of_a_day_is_read(tmp_path):
    last = pa.array([DAY["ns"] - 1, None, 0], pa.int64()).view(pa.time64("ns"))
    for name in ("a.parquet", "a.arrow"):
        write(tmp_path / name, last)
        assert read(name, tmp_path).frame["c"].to_physical().to_list() == [DAY["ns"] - 1, None, 0]


def test_a_time_that_no_day_has_is_refused_inside_a_list_in_parquet(tmp_path):
    items = pa.array([DAY["us"]], pa.int64()).view(pa.time64("us"))
    write(tmp_path / "a.parquet", pa.ListArray.from_arrays([0, 1], items))
    assert refusal("a.parquet", tmp_path).code == "E0509"


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize(
    ("column", "type_", "good", "bad"),
    [
        (pa.array([1.7, 2.5, -0.5, None]), "int64", [2, 2, 0, None], []),
        (pa.array([1.0, 1e300, float("nan")]), "int64", [1], ["1e+300", "nan"]),
        (pa.array([1, 300, -1]), "uint8", [1], ["300", "-1"]),
        (pa.array(["2024-01-31", "soon", None]), "date", [dt.date(2024, 1, 31), None], ["'soon'"]),
        (pa.array(["2024-01-31T10:30:15", ""]), "timestamp", [SECOND.replace(day=31)], ["''"]),
        (pa.array(["1.5", "x"]), "decimal(10, 2)", [Decimal("1.50")], ["'x'"]),
        (
            pa.array([Decimal("1.005"), Decimal("999.995")], pa.decimal128(10, 3)),
            "decimal(5, 2)",
            [Decimal("1.01")],
            ["999.995"],
        ),
        (pa.array([[1, 2], [300], None]), "list<int8>", [[1, 2], None], ["[300]"]),
        (pa.array(["[1, 2]", "[", ""]), "list<int8>", [[1, 2], None], ["'['"]),
        (pa.array([{"a": "1"}, {"a": "x"}, None]), "struct<a: int8>", [{"a": 1}, None], ["'x'"]),
        (pa.array(["AP8=", "%"]), "binary", [b"\x00\xff"], ["'%'"]),
        (pa.array([1, 12]), "string", ["1", "12"], []),
        (pa.array([dt.date(2024, 1, 1)]), "string", ["2024-01-01"], []),
    ],
)  # fmt: skip
def test_a_contract_is_a_cast_and_what_does_not_fit_is_a_bad_row(
    tmp_path, name, column, type_, good, bad
):
    write(tmp_path / name, column, row=pa.array(range(len(column))))
    found = read(name, tmp_path, contract={"c": type_})
    assert found.frame["c"].to_list() == good
    assert [each.code for each in found.bad] == ["E0501"] * len(bad)
    for each, text in zip(found.bad, bad, strict=True):
        assert text in each.message
        assert each.place == f"{name} row {each.row + 1}"
        assert json.loads(each.raw)["row"] == each.row


def test_integers_beyond_38_digits_are_bad_rows(tmp_path):
    frame = pl.DataFrame({"c": pl.Series([10**38 - 1, 2**127 - 1], dtype=pl.Int128)})
    frame.write_ipc(tmp_path / "a.arrow")
    found = read("a.arrow", tmp_path)
    assert found.frame["c"].to_list() == [Decimal(10**38 - 1)]
    assert [json.loads(bad.raw) for bad in found.bad] == [{"c": str(2**127 - 1)}]


def test_a_cast_that_has_no_meaning_is_refused(tmp_path):
    write(tmp_path / "a.parquet", pa.array([True]))
    error = refusal("a.parquet", tmp_path, contract={"c": "date"})
    assert error.code == "E0405"
    assert "column 'c' is bool in" in error.message
