"""Find the rows of two databases that may differ, by checksums that the databases compute.

Always true: rows that are left out have equal checksums; a bucket of which a database could not hash each row is
read; without a form in common for each column, nothing is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from dataflare.jobs.diff.columns import LEFT, RIGHT, Comparison, Pair
from dataflare.jobs.diff.reading import Reading, both
from dataflare.sdk.sql.checksums import (
    KEY_BUCKETS,
    Bucket,
    Keys,
    Ranges,
    Sum,
    SupportsChecksums,
    key_bucket,
)

_BUCKETS = 1_024
_ROWS_READ = 20_000
"""A bucket of at most so many rows is read; a larger one is divided once more."""
_DIVIDED_MAX = 16
_LEVELS = 3
_SPAN_MAX = 2**62

Buckets = tuple[Bucket, ...]
Sums = dict[Bucket, Sum]


class Narrowed(Struct, frozen=True):
    """The sides with the rows alone that may differ. left_rows, right_rows: of the whole tables."""

    left: Reading
    right: Reading
    left_rows: int
    right_rows: int
    is_equal: bool


class _Table(Struct, frozen=True):
    """A side: its source, and the form of each column by the column's name there. keys: the same of the key. own: the
    text of a row, where both databases make it in one way of their own."""

    source: SupportsChecksums[Any]
    forms: Mapping[str, str]
    keys: Mapping[str, str]
    own: str | None = None

    def where(self, condition: str) -> _Table:
        return replace(self, source=self.source.where([condition]))

    def by(self, buckets: Ranges | None, column: str) -> Ranges | Keys:
        if buckets is None:
            return Keys(self.keys)
        return Ranges(column, buckets.low, buckets.width)


async def narrowed(
    left: Reading, right: Reading, comparison: Comparison, sample: float | None
) -> Narrowed | None:
    """The sides with the rows that may differ, or None where checksums cannot be computed on both. sample: the share
    of keys that is compared."""
    ours, theirs = left.table, right.table
    if not isinstance(ours, SupportsChecksums) or not isinstance(theirs, SupportsChecksums):
        return None
    if ours.is_incremental() or theirs.is_incremental():
        return None  # the rows from its first value on are a part of the table
    tables = _tables(ours, theirs, comparison)
    if tables is None:
        return None
    if sample is not None:
        tables = _sampled(tables[0], sample), _sampled(tables[1], sample)
    first = (comparison.key or comparison.values)[0]
    column = (first.name, first.right_name)
    ranges = await _ranges(tables, first) if len(comparison.key) == 1 else None
    sums = await _summed(tables, ranges, column)
    differing = _differing(*sums)
    parts = await _divided(tables, ranges, column, sums, differing)
    conditions: tuple[list[str], list[str]] = ([], [])
    for each, buckets in parts:
        for table, name, texts in zip(tables, column, conditions, strict=True):
            texts.append(table.source.condition(table.by(each, name), buckets))
    kept = [t.source.where(texts) for t, texts in zip(tables, conditions, strict=True)]
    rows = [sum(each.rows for each in side.values()) for side in sums]
    return Narrowed(
        left.of_table(kept[0]), right.of_table(kept[1]), rows[0], rows[1], not differing
    )


def _tables(
    left: SupportsChecksums[Any], right: SupportsChecksums[Any], comparison: Comparison
) -> tuple[_Table, _Table] | None:
    """Both sides with the first form that they have in common for each column; None if a column has none."""
    forms: dict[str, dict[str, str]] = {LEFT: {}, RIGHT: {}}
    for pair in comparison.pairs:
        if "?" in f"{pair.name}{pair.right_name}":  # a mark of a value in a condition
            return None
        theirs = right.forms(pair.right_name)
        common = next((form for form in left.forms(pair.name) if form in theirs), None)
        if common is None:
            return None
        forms[LEFT][pair.name] = forms[RIGHT][pair.right_name] = common
    key = comparison.key or comparison.pairs
    ours = {each.name: forms[LEFT][each.name] for each in key}
    yours = {each.right_name: forms[RIGHT][each.right_name] for each in key}
    texts = _own_texts(left, right, comparison)
    return (
        _Table(left, forms[LEFT], ours, texts[0]),
        _Table(right, forms[RIGHT], yours, texts[1]),
    )


def _own_texts(
    left: SupportsChecksums[Any], right: SupportsChecksums[Any], comparison: Comparison
) -> tuple[str | None, str | None]:
    """The texts of rows that both databases make in the same way of their own."""
    if left.type == right.type:
        ours = left.own_text(comparison.names(LEFT))
        yours = right.own_text(comparison.names(RIGHT))
        if ours is not None and yours is not None and ours[1] == yours[1]:
            return ours[0], yours[0]
    return None, None


def _sampled(table: _Table, share: float) -> _Table:
    """The table with a share of its keys, the same keys on both sides."""
    count = max(1, round(share * KEY_BUCKETS))
    buckets = [key_bucket(number) for number in range(count)]
    condition = table.source.condition(Keys(table.keys), buckets)
    return table.where(condition)


async def _ranges(tables: tuple[_Table, _Table], key: Pair) -> Ranges | None:
    """Ranges of an integer key over both tables; None where its hash divides the rows."""
    types = (key.left_type, key.right_type)
    if not all(each.is_integer and each.name != "uint64" for each in types):
        return None
    left, right = tables
    found = await both(left.source.bounds(key.name), right.source.bounds(key.right_name))
    bounds = [each for each in found if each is not None]
    if not bounds:
        return None
    low, high = min(low for low, _ in bounds), max(high for _, high in bounds)
    if high - low >= _SPAN_MAX:
        return None
    return _of_span(key.name, low, high)


def _of_span(column: str, low: int, high: int) -> Ranges:
    return Ranges(column, low, (high - low) // _BUCKETS + 1)


async def _summed(
    tables: tuple[_Table, _Table], ranges: Ranges | None, column: tuple[str, str]
) -> tuple[Sums, Sums]:
    left, right = (
        table.source.checksums(table.forms, table.by(ranges, name), table.own)
        for table, name in zip(tables, column, strict=True)
    )
    return await both(left, right)


def _differing(left: Sums, right: Sums) -> Buckets:
    """The buckets that are not known to be equal."""
    return tuple(
        bucket
        for bucket in dict.fromkeys((*left, *right))
        if left.get(bucket) != right.get(bucket) or left[bucket].hashed != left[bucket].rows
    )


async def _divided(
    tables: tuple[_Table, _Table],
    ranges: Ranges | None,
    column: tuple[str, str],
    sums: tuple[Sums, Sums],
    differing: Buckets,
    level: int = 1,
) -> list[tuple[Ranges | None, Buckets]]:
    """The buckets to read. Large ones are divided, if there are few of them."""
    large = [
        bucket
        for bucket in differing
        if isinstance(bucket, int) and max(s[bucket].rows for s in sums if bucket in s) > _ROWS_READ
    ]
    if ranges is None or ranges.width == 1 or level == _LEVELS or len(large) > _DIVIDED_MAX:
        return [(ranges, differing)] if differing else []
    small = tuple(each for each in differing if each not in large)
    parts: list[tuple[Ranges | None, Buckets]] = [(ranges, small)] if small else []
    for bucket in large:
        low, high = ranges.edges(bucket)
        inner = _of_span(ranges.column, low, high - 1)
        within = []
        for table, name in zip(tables, column, strict=True):
            condition = table.source.condition(table.by(ranges, name), (bucket,))
            within.append(table.where(condition))
        both = (within[0], within[1])
        inner_sums = await _summed(both, inner, column)
        parts += await _divided(both, inner, column, inner_sums, _differing(*inner_sums), level + 1)
    return parts
