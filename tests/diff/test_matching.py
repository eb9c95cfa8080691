"""Rows are matched as multisets, whatever their types, and whether or not they fit into memory."""

from __future__ import annotations

import random
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables import a_table, changed, frame_of, multisets

from dataflare.errors import DataError
from dataflare.jobs.diff.columns import Comparison, compared
from dataflare.jobs.diff.forms import form_of
from dataflare.jobs.diff.matching import Matched, match
from dataflare.jobs.diff.partitions import Partitions
from dataflare.model.batch import KIND_COLUMN
from dataflare.model.types import Schema, parse_type


def matched(
    left: pl.DataFrame, right: pl.DataFrame, key: tuple[str, ...], memory_bytes: int = 1 << 30
) -> list[Matched]:
    comparison = compared(
        Schema.from_polars(left.schema), Schema.from_polars(right.schema), key, None
    )
    sides = [_filled(comparison, s, f, memory_bytes) for s, f in (("left", left), ("right", right))]
    try:
        if memory_bytes:
            return [match(sides[0].whole(), sides[1].whole(), comparison)]
        return [match(sides[0].part(n), sides[1].part(n), comparison) for n in range(4)]
    finally:
        for each in sides:
            each.close()


def _filled(comparison: Comparison, side: str, frame: pl.DataFrame, memory: int) -> Partitions:
    partitions = Partitions(comparison, side, memory)
    for part in frame.iter_slices(7):
        partitions.add(part)
    if not memory:
        partitions.spill()
    return partitions


ROWS = st.lists(
    st.tuples(st.sampled_from([None, 1, 2]), st.sampled_from([None, 0.0, -0.0, 1.5, float("nan")])),
    max_size=8,
)


@pytest.fixture(autouse=True)
def few_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("partitions", "comparing"):
        monkeypatch.setattr(f"dataflare.jobs.diff.{module}.PARTITIONS", 4)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(left=ROWS, right=ROWS, keyed=st.booleans(), spilled=st.booleans())
def test_no_row_is_lost_and_none_is_taken_for_another(
    left: list[Any], right: list[Any], keyed: bool, spilled: bool
) -> None:
    """Duplicates of a key, NULL in keys, NaN and -0.0."""
    schema = {"id": pl.Int64, "x": pl.Float64}
    frames = [pl.DataFrame(rows, schema=schema, orient="row") for rows in (left, right)]
    found = matched(*frames, ("id",) if keyed else (), 0 if spilled else 1 << 30)
    kinds = [kind for each in found for kind in each.frame["_diff"]]
    paired = kinds.count("different")
    only = kinds.count("left") + paired, kinds.count("right") + paired
    assert only == multisets(left, right)
    assert sum(each.left_rows for each in found) == len(left)


@pytest.mark.parametrize("seed", range(4))
def test_a_file_gives_what_memory_gives(seed: int) -> None:
    chance = random.Random(seed)
    left = a_table(chance, 200, floats=True)
    right = changed(chance, left, floats=True)
    frames = [frame_of(rows, floats=True) for rows in (left, right)]
    in_memory = [each.frame for each in matched(*frames, ("id",))]
    in_file = [each.frame for each in matched(*frames, ("id",), 0)]
    assert pl.concat(in_file).sort("id").equals(pl.concat(in_memory).sort("id"))


def test_rows_that_a_changelog_takes_back_are_not_there() -> None:
    kinds = [0, 0, 1, 2, 3, 0]
    changes = pl.DataFrame({"id": [1, 2, 1, 1, 2, 3], "x": ["a", "b", "a", "c", "b", "d"]})
    changes = changes.with_columns(pl.Series(KIND_COLUMN, kinds, dtype=pl.UInt8))
    left = pl.DataFrame({"id": [1, 3], "x": ["c", "e"]})
    comparison = compared(*[Schema.from_polars(left.schema)] * 2, ("id",), None)
    ours, yours = (
        _filled(comparison, "left", left, 1 << 30),
        _filled(comparison, "right", changes, 1 << 30),
    )
    found = match(ours.whole(), yours.whole(), comparison)
    assert found.frame["id"].to_list() == [3]
    assert found.right_rows == 2
    yours.add(
        changes.tail(1).with_columns(
            pl.lit(9, pl.Int64).alias("id"), pl.lit(3, pl.UInt8).alias(KIND_COLUMN)
        )
    )
    with pytest.raises(DataError, match="takes back a row"):
        match(ours.whole(), yours.whole(), comparison)


NUMBERS = [
    ("int32", "int64", [1, -5, None], [1, -5, None], True),
    ("uint64", "int64", [2**63, 1], [-(2**63), 1], False),
    ("bool", "int8", [True, False], [1, 0], True),
    ("decimal(10, 2)", "decimal(12, 4)", ["1.50", "0.00"], ["1.5", "0"], True),
    ("decimal(10, 2)", "int64", ["2.00"], [2], True),
    ("decimal(10, 2)", "int64", ["2.01"], [2], False),
    ("decimal(10, 2)", "float64", ["0.10"], [0.1], True),
    ("decimal(10, 2)", "float64", ["0.10"], [0.1 + 1e-17 * 3], False),
    ("int64", "float64", [2**53 + 1], [float(2**53)], False),
    ("int64", "float64", [2**53], [float(2**53)], True),
    ("int64", "float64", [0], [-0.0], False),
    ("float32", "float64", [0.1], [0.1], False),
    ("float32", "float64", [0.5, float("nan")], [0.5, float("nan")], True),
    ("float64", "float64", [0.0], [-0.0], False),
    ("timestamp[ms]", "timestamp[ns]", [1_000], [1_000_000_000], True),
    ("timestamp[us, UTC]", "timestamp[us, Europe/Berlin]", [1_000], [1_000], True),
    ("timestamp[us]", "timestamp[ns]", [2**62], [0], False),
    ("json", "json", ['{"a": 1.0, "b": [1e2]}'], ['{"b":[100],"a":1}'], True),
    ("json", "json", ['{"a": 1}'], ['{"a": true}'], False),
    ("json", "string", ['"x"'], ["x"], False),
    ("json", "list<int64>", ["[1, 2]"], [[1, 2]], True),
    ("list<int32>", "list<int64>", [[1], None, []], [[1], None, []], True),
    ("list<float64>", "list<float64>", [[0.0]], [[-0.0]], False),
    ("struct<a: int64, b: string>", "struct<b: string, a: int8>", [{"a": 1, "b": "x"}], [{"b": "x", "a": 1}], True),
    ("null", "string", [None], [None], True),
    ("null", "string", [None], [""], False),
    ("time", "duration[us]", [3_600_000_000_000], [3_600_000_000], True),
]  # fmt: skip


def _column(type_: str, values: list[Any]) -> pl.Series:
    dtype = parse_type(type_).to_polars()
    if isinstance(dtype, pl.Decimal):
        return pl.Series(values).cast(dtype)
    if dtype.is_temporal():
        return pl.Series(values, dtype=pl.Int64).cast(dtype)
    return pl.Series(values, dtype=dtype)


@pytest.mark.parametrize(("left", "right", "ours", "yours", "equal"), NUMBERS)
def test_values_of_other_types_are_equal_if_they_are_the_same_value(
    left: str, right: str, ours: list[Any], yours: list[Any], equal: bool
) -> None:
    form = form_of(parse_type(left), parse_type(right))
    turned = form_of(parse_type(right), parse_type(left))
    assert form is not None
    assert turned is not None
    a, b = _column(left, ours).to_frame("x"), _column(right, yours).to_frame("x")
    x = pl.col("x")
    for left_value, right_value in ((form.left, form.right), (turned.right, turned.left)):
        forms = [a.select(left_value(x).alias("x")), b.select(right_value(x).alias("x"))]
        assert forms[0].equals(forms[1]) == equal


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("string", "int64"), ("string", "binary"), ("timestamp[us]", "timestamp[us, UTC]"),
        ("date", "timestamp[us]"), ("decimal(38, 2)", "float64"), ("json", "list<float64>"),
    ],
)  # fmt: skip
def test_types_without_common_values_are_told_once(left: str, right: str) -> None:
    schemas = [Schema.of({"id": "int64", "x": each}) for each in (left, right)]
    found = compared(*schemas, ("id",), None)
    (column,) = found.differences
    assert column.name == "x"
    assert str(parse_type(left)) in column.why
