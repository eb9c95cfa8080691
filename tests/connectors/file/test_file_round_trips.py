"""What is written is what is read, for any rows."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pytest
from file_kit import read, write
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.model.types import Schema

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
INSTANTS = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31))
TYPES = {
    "int8": st.integers(-(2**7), 2**7 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "float64": st.floats(allow_nan=False, allow_infinity=False),
    "float32": st.floats(allow_nan=False, allow_infinity=False, width=32),
    "bool": st.booleans(),
    "string": TEXT,
    "binary": st.binary(max_size=10),
    "date": st.dates(),
    "timestamp[us]": INSTANTS,
    "timestamp[us, UTC]": INSTANTS.map(lambda t: t.replace(tzinfo=UTC)),
    "timestamp[ms]": INSTANTS.map(lambda t: t.replace(microsecond=0)),
    "time": st.times(),
    "decimal(12, 3)": st.decimals(-(10**8), 10**8, places=3),
    "list<int64>": st.lists(st.one_of(st.none(), st.integers(-9, 9)), max_size=3),
    "struct<a: int64, b: string>": st.fixed_dictionaries({"a": st.integers(-9, 9), "b": TEXT}),
    "list<struct<a: list<string>>>": st.lists(
        st.fixed_dictionaries({"a": st.lists(TEXT, max_size=2)}), max_size=2
    ),
}


EXACT = TYPES | {
    "float64": st.floats(),
    "float32": st.floats(width=32),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    "timestamp[us, Europe/Berlin]": INSTANTS.filter(lambda t: 1900 < t.year < 9999).map(
        lambda t: t.replace(tzinfo=UTC)
    ),
    "timestamp[ns]": st.datetimes(datetime(1678, 1, 1), datetime(2262, 1, 1)),
    "duration[us]": st.timedeltas(timedelta(days=-100_000_000), timedelta(days=100_000_000)),
    "decimal(38, 0)": st.integers(1 - 10**38, 10**38 - 1).map(Decimal),
    "decimal(38, 38)": st.integers(1 - 10**38, 10**38 - 1).map(
        lambda digits: Decimal((int(digits < 0), tuple(map(int, str(abs(digits)))), -38))
    ),
}
"""What formats with types hold as well, and text formats do not."""


@st.composite
def frames(draw, types=TYPES) -> pl.DataFrame:
    """Some columns of some types; the first is never NULL, so that no row is blank."""
    kinds = draw(st.lists(st.sampled_from(sorted(types)), min_size=1, max_size=5))
    schema = {"id": "int64"} | {f"c{n} é": kind for n, kind in enumerate(kinds)}
    rows = draw(st.integers(0, 12))
    columns = {"id": list(range(rows))}
    for name, kind in list(schema.items())[1:]:
        cell = st.one_of(st.none(), types[kind])
        columns[name] = draw(st.lists(cell, min_size=rows, max_size=rows))
    return pl.DataFrame(columns, schema=Schema.of(schema).to_polars(), strict=False)


def contract(frame: pl.DataFrame) -> dict[str, str]:
    return Schema.from_polars(frame.schema).to_json()


def put(folder, config, frame: pl.DataFrame) -> None:
    half = frame.height // 2
    write(config, folder, frame[:half], frame[half:])


@settings(max_examples=60)
@given(frame=frames(EXACT))
def test_parquet(tmp_path_factory, frame):
    folder = tmp_path_factory.mktemp("trip")
    put(folder, "o.parquet", frame)
    assert read("o.parquet", folder).frame.equals(frame)


@settings(max_examples=60)
@given(frame=frames(EXACT), compression=st.sampled_from(["none", "lz4", "zstd"]))
def test_arrow(tmp_path_factory, frame, compression):
    folder = tmp_path_factory.mktemp("trip")
    put(folder, {"path": "o.arrow", "compression": compression}, frame)
    assert read("o.arrow", folder).frame.equals(frame)
    assert pl.DataFrame(pa.ipc.open_file(folder / "o.arrow").read_all()).equals(frame)


@settings(max_examples=60)
@given(
    frame=frames(),
    kind=st.sampled_from(["ndjson", "json"]),
    compressed=st.sampled_from(["", ".gz", ".zst"]),
)
def test_json_text(tmp_path_factory, frame, kind, compressed):
    folder = tmp_path_factory.mktemp("trip")
    name = f"o.{kind}{compressed}"
    put(folder, name, frame)
    found = read(name, folder, contract=contract(frame))
    assert not found.bad
    assert found.frame.select(frame.columns).equals(frame)


@settings(max_examples=60)
@given(frame=frames(), delimiter=st.sampled_from(",;\t|"))
def test_csv(tmp_path_factory, frame, delimiter):
    folder = tmp_path_factory.mktemp("trip")
    config = {"path": "o.csv", "delimiter": delimiter}
    put(folder, config, frame)
    found = read(config, folder, contract=contract(frame))
    assert not found.bad
    assert found.frame.equals(frame)


@settings(max_examples=30)
@given(texts=st.lists(st.one_of(st.none(), TEXT), max_size=20))
def test_csv_of_one_column_of_text(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("trip")
    frame = pl.DataFrame({"t": texts}, schema={"t": pl.String})
    put(folder, "o.csv", frame)
    assert read("o.csv", folder, contract={"t": "string"}).frame.equals(frame)


@settings(max_examples=30)
@given(values=st.lists(st.one_of(st.none(), TEXT), min_size=1, max_size=8))
def test_partition_folders(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("trip")
    # Texts that are one and the same file name to some file systems are not tried.
    frame = pl.DataFrame(
        {"id": range(len(values)), "p": values}, schema={"id": pl.Int64, "p": pl.String}
    )
    write({"path": "hive", "partition_by": ["p"]}, folder, frame)
    got = read("hive", folder).frame.sort("id").with_columns(pl.col("p").cast(pl.String))
    assert got.equals(frame)


@pytest.mark.parametrize("name", ["o.csv", "o.ndjson", "o.json"])
def test_types_are_found_again_without_a_contract(tmp_path, name):
    frame = pl.DataFrame(
        {
            "i": [1, -2, None],
            "f": [1.5, 1e300, None],
            "b": [True, False, None],
            "t": ["x", "", None],
            "zip": ["007", "8", None],
            "d": [date(2024, 2, 29), date(1969, 1, 1), None],
            "at": [
                datetime(2024, 1, 1, tzinfo=UTC),
                datetime(2024, 1, 1, 1, 2, 3, 4, UTC),
                None,
            ],
            "naive": [datetime(2024, 1, 1, 12), datetime(2024, 1, 1, 1, 2, 3), None],
        }
    )
    put(tmp_path, name, frame)
    assert read(name, tmp_path).frame.equals(frame)


@pytest.mark.parametrize("name", ["o.csv", "o.ndjson", "o.json"])
def test_what_text_has_no_word_for(tmp_path, name):
    """NaN becomes NULL; infinity stays in CSV and becomes NULL in NDJSON; decimals are text."""
    frame = pl.DataFrame(
        {"f": [math.nan, math.inf, 1.0], "d": [Decimal("1.50"), None, Decimal("2")]}
    )
    put(tmp_path, name, frame)
    got = read(name, tmp_path, contract={"f": "float64", "d": "decimal(38, 2)"}).frame
    infinity = math.inf if name == "o.csv" else None
    assert got["f"].to_list() == [None, infinity, 1.0]
    assert got["d"].to_list() == [Decimal("1.50"), None, Decimal("2.00")]
