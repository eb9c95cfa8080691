"""What is written comes back, value by value; the schema comes back as the type tables say."""

from __future__ import annotations

import datetime as dt
import json
import math
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
from databases import Step, read, run
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.model.batch import SharedDataBatch
from dataflare.model.types import Schema

TIMES = st.datetimes(
    min_value=dt.datetime(1, 1, 1), max_value=dt.datetime(9999, 12, 31, 23, 59, 59)
)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
VALUES: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "bool": ("bool", st.booleans()),
    "small": ("int8", st.integers(-128, 127)),
    "big": ("int64", st.integers(-(2**63), 2**63 - 1)),
    "huge": ("uint64", st.integers(0, 2**64 - 1)),
    "real": ("float64", st.floats(allow_nan=False)),
    "single": ("float32", st.floats(width=32, allow_nan=False)),
    "price": ("decimal(10, 2)", st.decimals(-99999999, 99999999, places=2)),
    "exact": ("decimal(38, 10)", st.decimals(-(10**20), 10**20, places=10)),
    "text": ("string", TEXT),
    "raw": ("binary", st.binary(max_size=6)),
    "day": ("date", st.dates(min_value=dt.date(1, 1, 1))),
    "clock": ("time", st.times()),
    "naive": ("timestamp[us]", TIMES),
    "zoned": ("timestamp[us, UTC]", TIMES.map(lambda t: t.replace(tzinfo=dt.UTC))),
    "milli": ("timestamp[ms]", TIMES.map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000))),
    "second": ("timestamp[s]", TIMES.map(lambda t: t.replace(microsecond=0))),
    "nano": ("timestamp[ns]", st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1))),
    "span": ("duration[us]", st.timedeltas(dt.timedelta(-9999), dt.timedelta(9999))),
    "doc": ("json", st.dictionaries(TEXT, st.integers(), max_size=2).map(json.dumps)),
    "many": ("list<int64>", st.lists(st.none() | st.integers(-9, 9), max_size=3)),
    "pair": ("struct<a: int64, b: string>", st.fixed_dictionaries({"a": st.integers(-9, 9), "b": TEXT})),
}  # fmt: skip
SCHEMA = Schema.of({"id": "int64", **{name: type_ for name, (type_, _) in VALUES.items()}})
ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | values for name, (_, values) in VALUES.items()}),
    min_size=1, max_size=5,
)  # fmt: skip
COMES_BACK_AS = {
    "sqlite": {
        "small": "int64", "single": "float64", "many": "json", "pair": "json",
    },
    "duckdb": {},
}  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(made=ROWS)
def test_every_type_comes_back(kind, made):
    frame = pl.DataFrame(
        [{"id": place, **row} for place, row in enumerate(made)], schema=SCHEMA.to_polars()
    )

    async def go(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
        step = await Step(kind, folder, SCHEMA, mode="upsert", key=["id"]).start()
        await step.epoch(1, SharedDataBatch(frame), final=True)
        await step.close()
        plain, _ = await read(kind, folder, table="t")
        asked, _ = await read(kind, folder, table="t", contract=SCHEMA)
        return plain, asked

    with tempfile.TemporaryDirectory() as folder:
        plain, asked = run(go(Path(folder)))
    wanted = {**SCHEMA.to_json(), **COMES_BACK_AS[kind]}
    assert {name: str(t) for name, t in Schema.from_polars(plain.schema).to_json().items()} == {
        name: str(t)
        for name, t in Schema.from_polars(Schema.of(wanted).to_polars()).to_json().items()
    }
    assert asked.sort("id").to_dicts() == frame.to_dicts()


def test_not_a_number_is_null_in_sqlite_and_kept_in_duckdb(kind, tmp_path):
    async def go():
        schema = Schema.of({"x": "float64"})
        step = await Step(kind, tmp_path, schema).start()
        values = [math.nan, math.inf, -math.inf, None]
        await step.epoch(1, SharedDataBatch(pl.DataFrame({"x": values})), final=True)
        await step.close()
        found, _ = await read(kind, tmp_path, table="t")
        nan, *others = found["x"].to_list()
        assert others == [math.inf, -math.inf, None]
        assert nan is None if kind == "sqlite" else math.isnan(nan)

    run(go())


def test_columns_may_have_any_name(kind, tmp_path):
    async def go():
        names = ['with "quotes"', "select", "ünï cödé", "a.b", "{x}", "per%cent", "s", "rowid?"]
        schema = Schema.of(dict.fromkeys(names, "int64"))
        frame = pl.DataFrame({name: [place] for place, name in enumerate(names)})
        step = await Step(
            kind, tmp_path, schema, table="my 'odd' table", mode="upsert", key=names[:3]
        ).start()
        await step.epoch(1, SharedDataBatch(frame), SharedDataBatch(frame), final=True)
        await step.close()
        found, _ = await read(kind, tmp_path, table="my 'odd' table", columns=names[::-1])
        assert found.to_dicts() == frame.select(names[::-1]).to_dicts()

    run(go())


def test_decimals_keep_every_digit(kind, tmp_path):
    async def go():
        schema = Schema.of({"d": "decimal(38, 18)"})
        value = Decimal("12345678901234567890.123456789012345678")
        frame = pl.DataFrame({"d": [value]}, schema=schema.to_polars())
        step = await Step(kind, tmp_path, schema).start()
        await step.epoch(1, SharedDataBatch(frame), final=True)
        await step.close()
        found, _ = await read(kind, tmp_path, table="t")
        assert found["d"].to_list() == [value]

    run(go())
