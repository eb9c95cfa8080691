"""The key hash: the same for ever. A vector that changes here breaks every stored state."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.model.hashing import KEY_GROUPS, hash_columns, key_group, mix_int

DAY = dt.date(2024, 2, 29)
NOON = dt.datetime(2024, 2, 29, 12, 0, 0, 123000)
UTC = dt.UTC


def hashes(*columns: pl.Series, seed: int = 0) -> list[int]:
    frame = pl.DataFrame([s.alias(f"c{i}") for i, s in enumerate(columns)])
    hashed = hash_columns(frame.lazy(), frame.columns, "h", seed=seed).collect()
    assert hashed.columns == [*frame.columns, "h"]
    assert hashed.schema["h"] == pl.UInt64
    return hashed["h"].to_list()


def one(value: Any, dtype: Any = None) -> int:
    return hashes(pl.Series([value], dtype=dtype))[0]


VECTORS = [
    (None, pl.Int64, 15730797667909384033),
    (True, pl.Boolean, 12559266590898725785),
    (False, pl.Boolean, 8245137182712890806),
    (0, pl.Int8, 8245137182712890806),
    (1, pl.Int64, 12559266590898725785),
    (-1, pl.Int64, 9364058042022671125),
    (2**63 - 1, pl.Int64, 10948282100625019308),
    (-(2**63), pl.Int64, 12643213510910183623),
    (2**64 - 1, pl.UInt64, 9364058042022671125),
    (0.0, pl.Float64, 8245137182712890806),
    (1.5, pl.Float64, 2221528365826324866),
    (float("nan"), pl.Float64, 14329331907295479568),
    (float("-inf"), pl.Float64, 13975266044472226915),
    (0.1, pl.Float32, 1746840872197832004),
    ("", pl.String, 11798203414847684152),
    ("a", pl.String, 4213752916749999884),
    ("Grüße 👋", pl.String, 412423158866920605),
    (b"", pl.Binary, 11798203414847684152),
    (b"a", pl.Binary, 4213752916749999884),
    (b"\x00\xff", pl.Binary, 7589872507393420958),
    (Decimal("1.50"), pl.Decimal(10, 2), 5644283366846849478),
    (Decimal("-0.01"), pl.Decimal(10, 2), 4480161948871981022),
    (DAY, pl.Date, 9513306787027160480),
    (dt.time(12, 0, 0, 5), pl.Time, 14880980199969066526),
    (NOON, pl.Datetime("us"), 2212439062490757695),
    (NOON.replace(tzinfo=UTC), pl.Datetime("us", "Europe/Berlin"), 2212439062490757695),
    (dt.timedelta(days=-1), pl.Duration("us"), 1332859997457878290),
    ([1, None, 3], pl.List(pl.Int64), 440432185079820647),
    ({"a": 1, "b": "x"}, pl.Struct({"a": pl.Int64, "b": pl.String}), 555969173278661238),
]


@pytest.mark.parametrize(("value", "dtype", "expected"), VECTORS)
def test_the_hash_of_a_value_never_changes(value: Any, dtype: Any, expected: int):
    assert one(value, dtype) == expected


def test_the_mixing_is_splitmix64():
    # The first outputs of the generator seeded with 0, as published with it.
    assert [mix_int(n * 0x9E3779B97F4A7C15 & (2**64 - 1)) for n in range(3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


EQUAL = [
    [(5, pl.Int8), (5, pl.Int64), (5, pl.UInt16), (5, pl.UInt64)],
    [(-1, pl.Int8), (-1, pl.Int32), (-1, pl.Int64)],
    [(0.0, pl.Float64), (-0.0, pl.Float64), (0.0, pl.Float32), (-0.0, pl.Float32)],
    [(float("nan"), pl.Float64), (-float("nan"), pl.Float64), (float("nan"), pl.Float32)],
    [(1.5, pl.Float32), (1.5, pl.Float64)],
    [(Decimal("1.50"), pl.Decimal(10, 2)), (Decimal("1.5"), pl.Decimal(38, 9))],
    [(Decimal(100), pl.Decimal(10, 0)), (Decimal("100.00"), pl.Decimal(10, 2))],
    [(Decimal("0.00"), pl.Decimal(10, 2)), (Decimal("-0.0"), pl.Decimal(5, 1))],
    [(NOON, pl.Datetime("ms")), (NOON, pl.Datetime("us")), (NOON, pl.Datetime("ns"))],
    [
        (NOON.replace(tzinfo=UTC), pl.Datetime("us", "UTC")),
        (NOON.replace(tzinfo=UTC), pl.Datetime("ms", "Asia/Tokyo")),
    ],
    [(dt.timedelta(seconds=1), pl.Duration("ms")), (dt.timedelta(seconds=1), pl.Duration("ns"))],
    [("a", pl.String), ("a", pl.Categorical), ("a", pl.Enum(["b", "a"])), (b"a", pl.Binary)],
    [(None, pl.Int64), (None, pl.String), (None, pl.Null), (None, pl.List(pl.Int8))],
    [([1, 2], pl.List(pl.Int8)), ([1, 2], pl.List(pl.Int64)), ([1, 2], pl.Array(pl.Int8, 2))],
    [([-0.0], pl.List(pl.Float64)), ([0.0], pl.List(pl.Float32))],
    [
        ({"a": b"x", "d": Decimal("1.0")}, pl.Struct({"a": pl.Binary, "d": pl.Decimal(5, 1)})),
        ({"a": b"x", "d": Decimal("1.00")}, pl.Struct({"a": pl.Binary, "d": pl.Decimal(9, 2)})),
    ],
]


@pytest.mark.parametrize("same", EQUAL, ids=lambda same: f"{same[0][0]!r}")
def test_equal_values_have_equal_hashes_whatever_holds_them(same: list[tuple[Any, Any]]):
    assert len({one(value, dtype) for value, dtype in same}) == 1


DIFFERENT = [
    *[(n, pl.Int64) for n in (0, 1, -1, 256, 2**62)],
    *[(text, pl.String) for text in ("", "a", "b", "ab", "0")],
    *[(x, pl.Float64) for x in (0.5, -0.5, float("inf"), float("-inf"), float("nan"))],
    (None, pl.Int64),
    (Decimal("1.5"), pl.Decimal(5, 2)),
    (Decimal("-1.5"), pl.Decimal(5, 2)),
    (Decimal("15"), pl.Decimal(5, 2)),
    *[(x, pl.List(pl.Int8)) for x in ([], [1], [1, 2], [2, 1], [None])],
]


def test_other_values_have_other_hashes():
    assert len({one(value, dtype) for value, dtype in DIFFERENT}) == len(DIFFERENT)


def test_the_name_of_a_column_does_not_matter_its_place_does():
    a, b = pl.Series("a", [1]), pl.Series("b", [2])
    assert hashes(a, b) != hashes(b, a)
    nested = pl.Series([[1]])
    left = hash_columns(pl.LazyFrame({"x": nested}), ["x"], "h").collect()["h"]
    right = hash_columns(pl.LazyFrame({"y": nested}), ["y"], "h").collect()["h"]
    assert left.to_list() == right.to_list()


def test_a_null_in_one_column_is_not_a_null_in_another():
    null, two = pl.Series([None], dtype=pl.Int64), pl.Series([2])
    assert hashes(null, two) != hashes(two, null)


def test_another_seed_gives_other_hashes():
    assert hashes(pl.Series([1]), seed=1) != hashes(pl.Series([1]))


def test_no_columns_hash_to_one_value():
    made = hash_columns(pl.LazyFrame({"a": [1, 2]}), [], "h").collect()
    assert made["h"].n_unique() == 1


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.none(), min_size=1))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_a_row_hashes_alike_in_any_batch(values: list[int | None]):
    whole = hashes(pl.Series(values, dtype=pl.Int64))
    assert whole == [one(value, pl.Int64) for value in values]


def test_key_groups_are_even():
    frame = pl.DataFrame({"k": range(20_000)})
    hashed = hash_columns(frame.lazy(), ["k"], "h").select(key_group(pl.col("h")).alias("g"))
    counts = hashed.collect()["g"].value_counts()["count"]
    assert len(counts) == KEY_GROUPS
    assert 90 < counts.min() <= counts.max() < 230
