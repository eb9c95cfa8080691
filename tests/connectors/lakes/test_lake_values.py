"""Each type at its limits and NULL, written and read back, here and by another reader; and what is refused."""

from __future__ import annotations

import asyncio
import datetime as dt
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from lake_kit import Lake, Step, batch

from dataflare.errors import DataError, DataFlareError
from dataflare.model.types import Schema

pytestmark = pytest.mark.rotates(2)

INF, NAN = float("inf"), float("nan")
UTC = dt.UTC
LAST = dt.datetime(9999, 12, 31, 23, 59, 59, 999_999)
WHOLE = {
    name: pl.Series([low, high, None, 1], dtype=dtype)
    for name, dtype, low, high in [
        ("int8", pl.Int8, -(2**7), 2**7 - 1), ("int16", pl.Int16, -(2**15), 2**15 - 1),
        ("int32", pl.Int32, -(2**31), 2**31 - 1), ("int64", pl.Int64, -(2**63), 2**63 - 1),
        ("uint8", pl.UInt8, 0, 2**8 - 1), ("uint16", pl.UInt16, 0, 2**16 - 1),
        ("uint32", pl.UInt32, 0, 2**32 - 1), ("uint64", pl.UInt64, 0, 2**64 - 1),
    ]
}  # fmt: skip
DIGITS = Decimal("9" * 38)
COLUMNS: dict[str, pl.Series] = {
    **WHOLE,
    "bool": pl.Series([True, False, None, True]),
    "float32": pl.Series([3.4028234663852886e38, NAN, None, -0.0], dtype=pl.Float32),
    "float64": pl.Series([1.7976931348623157e308, 5e-324, None, -INF]),
    "decimal": pl.Series([DIGITS, Decimal("-" + "9" * 38), None, Decimal(1)], dtype=pl.Decimal(38, 0)),
    "cents": pl.Series([Decimal("0.01"), Decimal("-9999999.99"), None, Decimal("1.10")], dtype=pl.Decimal(9, 2)),
    "string": pl.Series(['ä€😀\n"\t,\0', "", None, "x" * 500]),
    "binary": pl.Series([b"\x00\xff", b"", None, b"x" * 500]),
    "date": pl.Series([dt.date(1, 1, 1), dt.date(9999, 12, 31), None, dt.date(1970, 1, 1)]),
    "wall": pl.Series([dt.datetime(1, 1, 1), LAST, None, dt.datetime(1970, 1, 1)], dtype=pl.Datetime("us")),
    "wall_ms": pl.Series([dt.datetime(1, 1, 1), dt.datetime(2026, 2, 3, 4, 5, 6, 7000), None, dt.datetime(1970, 1, 1)], dtype=pl.Datetime("ms")),
    "instant": pl.Series(
        [dt.datetime(1, 1, 1, tzinfo=UTC), LAST.replace(tzinfo=UTC), None, dt.datetime(1970, 1, 1, tzinfo=UTC)],
        dtype=pl.Datetime("us", "UTC"),
    ),
    "list": pl.Series([[1, None], [], None, [2**62]], dtype=pl.List(pl.Int64)),
    "struct": pl.Series(
        [{"a": 1, "b c": ["x", None]}, {"a": None, "b c": None}, None, {"a": 2, "b c": []}],
        dtype=pl.Struct({"a": pl.Int32, "b c": pl.List(pl.String)}),
    ),
    "deep": pl.Series(
        [[{"at": LAST}], [None], None, []], dtype=pl.List(pl.Struct({"at": pl.Datetime("us")}))
    ),
}  # fmt: skip
FRAME = pl.DataFrame(COLUMNS)
OTHER = "2f0e0d0c-0b0a-4000-8000-000000000003"
WIDER = {
    "delta": {"uint8": pl.Int16, "uint16": pl.Int32, "uint32": pl.Int64},
    "iceberg": {"int8": pl.Int32, "int16": pl.Int32, "uint8": pl.Int32, "uint16": pl.Int32, "uint32": pl.Int64},
}  # fmt: skip


def expected(lake: Lake, frame: pl.DataFrame) -> pl.DataFrame:
    types: dict[str, Any] = {"uint64": pl.Decimal(20, 0), "wall_ms": pl.Datetime("us")}
    types |= WIDER[lake.kind]
    return frame.cast({name: type_ for name, type_ in types.items() if name in frame.columns})


def write(lake: Lake, frame: pl.DataFrame, **config: Any) -> None:
    async def go() -> None:
        step = await Step(lake, Schema.from_polars(frame.schema), **config).start()
        await step.epoch(1, batch(frame), final=True)
        await step.close()

    asyncio.run(go())


def same(found: pl.DataFrame, wanted: pl.DataFrame) -> None:
    assert found.schema == wanted.schema
    for name in wanted.columns:
        assert found[name].to_list() == wanted[name].to_list() or str(found[name]) == str(
            wanted[name]
        ), name


@pytest.mark.parametrize("mode", ["append", "overwrite", "upsert"])
def test_values_come_back_as_they_were(lake: Lake, mode: str):
    frame = FRAME.with_row_index("key").cast({"key": pl.Int64})
    write(lake, frame, mode=mode, **({"key": ["key"]} if mode == "upsert" else {}))
    same(lake.read().sort("key"), expected(lake, frame))


def test_another_reader_finds_the_same_values(lake: Lake):
    frame = FRAME.with_row_index("key").cast({"key": pl.Int64})
    write(lake, frame)
    found = lake.frame().sort("key")
    if lake.kind == "iceberg":  # pyiceberg 0.12 reads NULL as an empty list in a list of structs
        frame, found = frame.drop("deep"), found.drop("deep")
    wanted = expected(lake, frame)
    same(found.cast(dict(wanted.schema)), wanted)


def test_duckdb_finds_the_same_values(lake: Lake):
    """In the data files, without anything of the library that wrote them."""
    import duckdb

    frame = FRAME.drop("string").with_row_index("key").cast({"key": pl.Int64})
    write(lake, frame)
    pattern = lake.folder / "lake" / "**" / "*.parquet"
    files = [str(p) for p in lake.folder.glob("lake/**/*.parquet") if "_log" not in str(p)]
    assert files, pattern
    with duckdb.connect() as db:
        db.execute("set TimeZone = 'UTC'")
        found = pl.DataFrame(
            db.execute("select * from read_parquet(?)", [files]).to_arrow_table()
        ).sort("key")
    same(found.cast(dict(expected(lake, frame).schema)), expected(lake, frame))


def test_every_type_can_be_the_key(lake: Lake):
    for name in ("int8", "int64", "uint64", "decimal", "string", "date", "instant", "bool"):
        frame = FRAME.select(pl.col(name).alias("k"), pl.lit(1).alias("v")).drop_nulls()
        frame = frame.unique("k", maintain_order=True)
        write(lake, frame, table=name, mode="upsert", key=["k"])
        changed = frame[:1].with_columns(v=pl.lit(2))

        async def go(name: str = name, changed: pl.DataFrame = changed) -> None:
            schema = Schema.from_polars(changed.schema)
            step = Step(
                lake, schema, table=name, lineage=OTHER, workflow="w", mode="upsert", key=["k"]
            )
            await step.start()
            await step.epoch(1, batch(changed), final=True)
            await step.close()

        asyncio.run(go())
        assert sorted(lake.frame(name)["v"].to_list()) == [1] * (frame.height - 1) + [2], name


@pytest.mark.parametrize(
    ("dtype", "kinds"),
    [
        (pl.Datetime("ns"), ("delta", "iceberg")),
        (pl.Datetime("ns", "UTC"), ("delta", "iceberg")),
        (pl.Duration("us"), ("delta", "iceberg")),
        (pl.Time(), ("delta",)),
        (pl.List(pl.Datetime("ns")), ("delta", "iceberg")),
    ],
    ids=str,
)
def test_types_that_would_lose_are_refused_before_the_run(lake: Lake, dtype: Any, kinds: Any):
    schema = Schema.from_polars({"v": dtype})
    if lake.kind not in kinds:
        asyncio.run(lake.destination().validate(schema))
        return
    with pytest.raises(DataFlareError) as caught:
        asyncio.run(lake.destination().validate(schema))
    assert caught.value.code == "E0511"
    assert "'v'" in caught.value.message


def test_a_time_keeps_its_microseconds_and_refuses_nanoseconds(lake: Lake):
    if lake.kind == "delta":
        return
    times = pl.DataFrame({"v": [dt.time(23, 59, 59, 999_999), None]})
    write(lake, times)
    assert lake.read()["v"].to_list() == times["v"].to_list()
    finer = pl.DataFrame({"v": pl.Series([1], dtype=pl.Int64).cast(pl.Time)})
    with pytest.raises(DataError, match="nanoseconds"):
        write(lake, finer, table="finer")


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        (pl.Series([1], dtype=pl.Int32), pl.Series(["1.5"])),
        (pl.Series([1.0], dtype=pl.Float32), pl.Series(["x"])),
        (pl.Series([Decimal("1.5")], dtype=pl.Decimal(4, 1)), pl.Series([Decimal("1.55")], dtype=pl.Decimal(4, 2))),
        (pl.Series([dt.date(2026, 1, 1)]), pl.Series([dt.datetime(2026, 1, 1, 1)])),
    ],
    ids=lambda series: str(series.dtype),
)  # fmt: skip
def test_values_that_do_not_fit_the_table_are_refused(
    lake: Lake, table: pl.Series, rows: pl.Series
):
    write(lake, pl.DataFrame({"v": table}))
    other = {"lineage": OTHER, "workflow": "w"}
    with pytest.raises(DataError) as caught:
        write(lake, pl.DataFrame({"v": rows}), **other)
    assert caught.value.code == "E0511"
    assert lake.frame()["v"].to_list() == table.to_list()


def test_bad_rows_become_dead_letters_and_the_others_arrive(lake: Lake):
    lake.add(pl.DataFrame({"id": [0], "v": pl.Series([1], dtype=pl.Int32)}))
    rows = "[{id: 1, v: '5'}, {id: 2, v: x}, {id: 3, v: '6'}, {v: '7'}]"
    options = "mode: upsert, key: [id]}, error_handling: {on_error: dead_letter"
    result = lake.run(rows, options)
    assert result.error is None
    assert result.steps["d"]["dead_letters"] == 2
    assert lake.frame().sort("id").rows() == [(0, 1), (1, 5), (3, 6)]


def test_wall_clocks_do_not_go_into_a_column_of_instants(lake: Lake):
    write(lake, FRAME.select(pl.col("instant").alias("v")))
    schema = Schema.from_polars({"v": pl.Datetime("us")})
    with pytest.raises(DataError) as caught:
        asyncio.run(lake.destination().validate(schema))
    assert caught.value.code == "E0511"


@pytest.mark.parametrize("names", [["a", "A"], ["ä", "Ä"]])
def test_columns_that_differ_in_case_alone_are_refused(lake: Lake, names: list[str]):
    schema = Schema.of([(name, "int64") for name in names])
    with pytest.raises(DataFlareError) as caught:
        asyncio.run(lake.destination().validate(schema))
    assert caught.value.code == "E0411"


def test_an_empty_text_in_a_partition_of_delta_is_refused(tmp_path):
    lake = Lake("delta", tmp_path)
    with pytest.raises(DataError, match="empty text"):
        write(lake, pl.DataFrame({"p": ["", "a"], "v": [1, 2]}), partition_by=["p"])


def test_a_column_without_a_name_is_refused(lake: Lake):
    """Delta Lake and Iceberg would have NULL in each of its rows."""
    with pytest.raises(DataFlareError, match="the empty name ''") as caught:
        write(lake, pl.DataFrame({"": [4], "z": [1]}))
    assert caught.value.code == "E0411"


DOTTED = [
    {"a": {"b": 1}, "a.b": 2},
    {"a.b": {"c": "x"}, "a": {"b": {"c": 1}}},
    {"a": {"b.c": 1, "b": {"c": 2}}},
    {"a": [{"x": 1}], "a.element": 2},
]


@pytest.mark.parametrize("row", DOTTED, ids=str)
def test_a_field_and_a_column_with_dots_are_two(tmp_path, row: dict[str, Any]):
    lake, frame = Lake("delta", tmp_path), pl.DataFrame([row])
    write(lake, frame)
    assert lake.read().rows(named=True) == frame.rows(named=True)


@pytest.mark.parametrize("row", [*DOTTED, {"a": {"": 1}}], ids=str)
def test_fields_that_iceberg_cannot_tell_apart_are_refused(tmp_path, row: dict[str, Any]):
    with pytest.raises(DataFlareError, match=r"the path|the empty name") as caught:
        write(Lake("iceberg", tmp_path), pl.DataFrame([row]))
    assert caught.value.code == "E0411"


def test_odd_names_of_columns_are_kept(lake: Lake):
    frame = pl.DataFrame({"a b": [1], "ü.x": [2], '"q"': [3], "select": [4]})
    write(lake, frame)
    assert lake.read().rows(named=True) == frame.rows(named=True)
