"""Match the rows of two tables that have the same keys. Pure.

Always true: rows are multisets, so a row that one side has twice needs two equal rows on the other side. Of the rows
without an equal one, those with one key are told as one row that differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import polars as pl
from msgspec import Struct

from dataflare.errors import DataError
from dataflare.jobs.diff.columns import LEFT, RIGHT, Comparison
from dataflare.model.types import DataType

KIND = "_diff"
COLUMNS = "_columns"
WEIGHT = "w"
"""Of a row: how often it is there, -1 for one that a changelog takes back."""
DIFFERENT = "different"
_ROW, _N = "row", "n"


class Matched(Struct, frozen=True):
    """frame: a row for each difference: KIND, the key, COLUMNS (those that differ), and both values of each other
    column. keys: the forms of their keys. by_column: in how many rows of both sides a column differs. left_rows,
    right_rows: of both sides."""

    frame: pl.DataFrame
    keys: pl.DataFrame
    by_column: Mapping[str, int]
    left_rows: int
    right_rows: int


class _Pairs(Struct, frozen=True):
    """told: KIND and COLUMNS of each difference, and its places on both sides."""

    told: pl.DataFrame
    keys: pl.DataFrame
    by_column: Mapping[str, int]


def match(left: pl.DataFrame, right: pl.DataFrame, comparison: Comparison) -> Matched:
    """left, right: rows as `Comparison.held` names them, with WEIGHT."""
    forms = {LEFT: _forms(left, comparison, LEFT), RIGHT: _forms(right, comparison, RIGHT)}
    extra_left, extra_right = _unequal(forms[LEFT], forms[RIGHT], comparison)
    pairs = _paired(extra_left, extra_right, comparison)
    return Matched(
        _values(pairs.told, left, right, comparison), pairs.keys, pairs.by_column,
        int(left[WEIGHT].sum()), int(right[WEIGHT].sum()),
    )  # fmt: skip


def _forms(frame: pl.DataFrame, comparison: Comparison, side: str) -> pl.DataFrame:
    return frame.select(*comparison.forms(side), WEIGHT).with_row_index(_ROW)


def _unequal(
    left: pl.DataFrame, right: pl.DataFrame, comparison: Comparison
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The forms of the rows that the other side does not have, each as often as it lacks there."""
    names = comparison.all_forms
    zero = pl.lit(0, pl.Int32)
    both = pl.concat(
        [
            left.with_columns(pl.col(WEIGHT).alias("l"), zero.alias("r")),
            right.with_columns(zero.alias("l"), pl.col(WEIGHT).alias("r")),
        ]
    )
    row = pl.col(_ROW)
    groups = both.group_by(names).agg(
        pl.col("l").sum(),
        pl.col("r").sum(),
        row.filter(pl.col("l") > 0).first().alias("left_row"),
        row.filter(pl.col("r") > 0).first().alias("right_row"),
    )
    if groups.select((pl.min_horizontal("l", "r") < 0).any()).item():
        raise DataError(
            "a changelog takes back a row that it never gave",
            code="E0513",
            help="compare the table that the changes are written to",
        )
    surplus = (pl.col("l") - pl.col("r")).alias(_N)
    groups = groups.with_columns(surplus).filter(pl.col(_N) != 0)
    return (
        _repeated(groups.filter(pl.col(_N) > 0), names, "left_row"),
        _repeated(groups.filter(pl.col(_N) < 0), names, "right_row"),
    )


def _repeated(groups: pl.DataFrame, names: Iterable[str], row: str) -> pl.DataFrame:
    frame = groups.select(*names, pl.col(row).alias(_ROW), pl.col(_N).abs())
    if frame.select((pl.col(_N) > 1).any()).item():
        index = pl.int_range(pl.len(), dtype=pl.UInt32)
        places = frame.select(index.repeat_by(_N).explode())
        frame = frame[places.to_series()]
    return frame.drop(_N)


def _paired(extra_left: pl.DataFrame, extra_right: pl.DataFrame, comparison: Comparison) -> _Pairs:
    """The differences. Rows of one key are paired in the order of their places."""
    keys = comparison.key_forms
    if keys:
        extra_left = extra_left.sort(_ROW).with_columns(_number(keys))
        extra_right = extra_right.sort(_ROW).with_columns(_number(keys))
        pairs = extra_left.join(
            extra_right, on=[*keys, _N], how="full", suffix="_", nulls_equal=True, coalesce=True
        )
    else:
        others = extra_right.rename(lambda name: f"{name}_")
        pairs = pl.concat([extra_left, others], how="diagonal")
    in_left, in_right = pl.col(_ROW).is_not_null(), pl.col(f"{_ROW}_").is_not_null()
    kind = (
        pl.when(in_left & in_right).then(pl.lit(DIFFERENT)).when(in_left).then(pl.lit(LEFT))
        .otherwise(pl.lit(RIGHT))
    )  # fmt: skip
    unequal = {
        each.name: in_left & in_right & pl.col(f"f{at}").ne_missing(pl.col(f"f{at}_"))
        for at, each in enumerate(comparison.pairs)
        if at >= len(comparison.key)
    }
    names = [pl.when(condition).then(pl.lit(name)) for name, condition in unequal.items()]
    differing = pl.concat_str(names, separator=", ", ignore_nulls=True) if names else pl.lit("")
    told = pairs.select(kind.alias(KIND), differing.alias(COLUMNS), _ROW, f"{_ROW}_")
    counts = [condition.sum().alias(str(at)) for at, condition in enumerate(unequal.values())]
    numbers = pairs.select(counts).row(0) if counts else ()
    by_column = {name: n for name, n in zip(unequal, numbers, strict=True) if n}
    order = pl.arg_sort_by(_ROW, f"{_ROW}_", nulls_last=True)
    return _Pairs(told.select(pl.all().gather(order)), pairs.select(keys), by_column)


def _number(keys: list[str]) -> pl.Expr:
    return pl.int_range(pl.len()).over(keys).alias(_N)


def _values(
    told: pl.DataFrame, left: pl.DataFrame, right: pl.DataFrame, comparison: Comparison
) -> pl.DataFrame:
    """The original values of both rows."""
    taken = {LEFT: left[told[_ROW]], RIGHT: right[told[f"{_ROW}_"]]}
    columns = [told[KIND]]
    for at, each in enumerate(comparison.key):
        dtype = key_type(each.left_type, each.right_type).to_polars()
        ours, theirs = (_as(taken[side][f"v{at}"], dtype) for side in (LEFT, RIGHT))
        values = pl.DataFrame({"a": ours, "b": theirs, "in": told[_ROW].is_not_null()})
        column = pl.when("in").then("a").otherwise("b")
        columns.append(values.select(column).to_series().alias(each.name))
    columns.append(told[COLUMNS])
    for at, (side, name) in enumerate(value_columns(comparison)):
        place = len(comparison.key) + at // 2
        columns.append(taken[side][f"v{place}"].alias(name))
    return pl.DataFrame(columns)


def _as(values: pl.Series, dtype: pl.DataType) -> pl.Series:
    return values if values.dtype == dtype else values.cast(dtype)


def key_type(left: DataType, right: DataType) -> DataType:
    """The type in which a key is told."""
    if left == right:
        return left
    narrow = left.is_integer and right.is_integer and "uint64" not in (left.name, right.name)
    if narrow:
        return DataType("int64")
    return DataType("string")


def value_columns(comparison: Comparison) -> list[tuple[str, str]]:
    """For each column that is compared beside the key: (side, name in the result) of the left and of the right value."""
    taken = {KIND, COLUMNS, *(each.name for each in comparison.key)}
    named = []
    for each in comparison.values:
        for side in (LEFT, RIGHT):
            name = f"{each.name}_{side}"
            while name in taken:
                name += "_"
            taken.add(name)
            named.append((side, name))
    return named
