"""Compare two sides: read what may differ, match it by key, read again what may be in flight.

Always true: the result is equal only if each row of both sides was read or is known by its checksum, and none is left
over; rows that could not be read, and columns that were not compared, make it different.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import polars as pl
from msgspec import Struct, field

from dataflare.errors import DataFlareError
from dataflare.formats.text_write import python_rows
from dataflare.jobs.diff.columns import LEFT, RIGHT, ColumnDifference, Comparison, compared
from dataflare.jobs.diff.matching import DIFFERENT, KIND, Matched, match
from dataflare.jobs.diff.narrowing import narrowed
from dataflare.jobs.diff.partitions import PARTITIONS, Partitions
from dataflare.jobs.diff.places import Side, filtered, named
from dataflare.jobs.diff.reading import Reading, both, opened
from dataflare.jobs.learning import refuse_more, with_more
from dataflare.jobs.up_to import Failures
from dataflare.model.new_fields import Columns, FieldsAppeared
from dataflare.sdk.context import Policy

_AGAIN_S = 0.25
_AGAIN_MAX_S = 5.0
_KEYS_PUSHED = 200
"""Up to so many keys are told to the systems, when rows are read again."""
_KEYS_MAX = 1_000_000
_MEMORY_PARTS = 8
"""Each side holds this part of `resources.memory`: to match it takes several times as much."""

Sink = Callable[[pl.DataFrame], None]


class Options(Struct, frozen=True):
    """key: the columns that tell rows apart; by default those of the destination or the catalogue. columns: compare
    these alone. digits: floats are equal if so many of their digits are. where: a condition for the rows of both sides. sample: the share of keys that is compared. limit: how
    many differences are kept in the result. wait_s: how long differing rows are read again. into: makes what is given
    all differences in frames; called again when they are read again."""

    key: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    where: str | None = None
    sample: float | None = None
    digits: int | None = None
    limit: int = 20
    wait_s: float = 0.0
    into: Callable[[], Sink] | None = None
    policy: Policy | None = None


class Diff(Struct, frozen=True):
    """rows: up to `limit` differences: `_diff` (left, right, different), the key, `_columns`, and both values of each
    other column. left_rows, right_rows: that were compared. by_column: in how many rows of both sides a column
    differs. columns: those that were not compared. unread: by side, rows that could not be read. checksums: whether
    the databases computed them. reads: how often rows were read."""

    left: str
    right: str
    key: tuple[str, ...]
    left_rows: int
    right_rows: int
    only_left: int
    only_right: int
    different: int
    by_column: Mapping[str, int]
    columns: tuple[ColumnDifference, ...]
    unread: Mapping[str, Mapping[str, Failures]]
    rows: pl.DataFrame
    checksums: bool = False
    reads: int = 1

    @property
    def is_equal(self) -> bool:
        differences = self.only_left + self.only_right + self.different
        return not (differences or self.columns or any(self.unread.values()))

    def to_json(self) -> dict[str, Any]:
        return {
            "equal": self.is_equal,
            "left": self.left,
            "right": self.right,
            "key": list(self.key),
            "left_rows": self.left_rows,
            "right_rows": self.right_rows,
            "only_left": self.only_left,
            "only_right": self.only_right,
            "different": self.different,
            "by_column": dict(self.by_column),
            "columns": [each.to_json() for each in self.columns],
            "unread": {
                side: {step: each.rows for step, each in failures.items()}
                for side, failures in self.unread.items()
            },
            "checksums": self.checksums,
            "rows": list(python_rows(self.rows)),
        }


def diff(left: Side, right: Side, options: Options) -> Diff:
    """Compare two sides. Raises errors of the workflow, of the systems, and WorkflowError (E0129)."""
    try:
        return asyncio.run(_Comparing(left, right, options).run())
    except DataFlareError as error:
        raise named(error, (left, right)) from None


class _Totals(Struct):
    """The differences that were found by one reading. keys: those of all of them, unless there are more than
    `keys_max`."""

    limit: int
    keys_max: int
    sink: Sink
    left_rows: int = 0
    right_rows: int = 0
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys((LEFT, RIGHT, DIFFERENT), 0)
    )
    by_column: dict[str, int] = field(default_factory=dict)
    shown: list[pl.DataFrame] = field(default_factory=list)
    keys: list[pl.DataFrame] = field(default_factory=list)

    def add(self, matched: Matched) -> None:
        self.left_rows += matched.left_rows
        self.right_rows += matched.right_rows
        frame = matched.frame
        if not frame.height:
            return
        for kind, count in frame.group_by(KIND).agg(pl.len()).iter_rows():
            self.counts[kind] += count
        for name, count in matched.by_column.items():
            self.by_column[name] = self.by_column.get(name, 0) + count
        kept = sum(each.height for each in self.shown)
        if kept < self.limit:
            self.shown.append(frame.head(self.limit - kept))
        if self.differences <= self.keys_max:
            self.keys.append(matched.keys)
        else:
            self.keys.clear()
        self.sink(frame)

    @property
    def differences(self) -> int:
        return sum(self.counts.values())


class _Comparing:
    def __init__(self, left: Side, right: Side, options: Options) -> None:
        self.options, self.left, self.right = options, left, right
        self.learned: dict[str, Mapping[str, Columns] | None] = {LEFT: None, RIGHT: None}

    async def run(self) -> Diff:
        options = self.options
        left, right = self.left, self.right
        if options.where is not None:
            left, right = filtered(left, options.where), filtered(right, options.where)
        found = await self._once(left, right, None)
        first, reads, pause_s = found, 1, _AGAIN_S
        deadline = time.monotonic() + options.wait_s
        while found.totals.differences and time.monotonic() < deadline:
            await asyncio.sleep(max(0.0, min(pause_s, deadline - time.monotonic())))
            pause_s = min(pause_s * 2, _AGAIN_MAX_S)
            found = await self._once(left, right, found)
            reads += 1
        comparison, totals = found.comparison, found.totals
        whole = first if comparison.key else found
        return Diff(
            self.left.label, self.right.label, tuple(each.name for each in comparison.key),
            whole.left_rows, whole.right_rows,
            totals.counts[LEFT], totals.counts[RIGHT], totals.counts[DIFFERENT],
            totals.by_column, comparison.differences, found.unread,
            pl.concat(totals.shown) if totals.shown else pl.DataFrame(),
            first.checksums, reads,
        )  # fmt: skip

    async def _once(self, left: Side, right: Side, before: _Found | None) -> _Found:
        """Read both sides. before: what was found, of which the differing keys are read again."""
        replans = 0
        while True:
            try:
                return await self._read(left, right, before)
            except _AppearedOn as appeared:
                replans += 1
                refuse_more(appeared.fields, replans)
                learned = self.learned[appeared.side] or {}
                self.learned[appeared.side] = with_more(learned, appeared.fields)

    async def _read(self, left: Side, right: Side, before: _Found | None) -> _Found:
        policy = self.options.policy
        again = None if before is None else _keys_again(before)
        if again is not None and before is not None:
            left, right = _pushed(left, right, before.comparison, again)
        ours, yours = await both(
            opened(left, policy, self.learned[LEFT]), opened(right, policy, self.learned[RIGHT])
        )
        key = before.key if before is not None else self._key(ours, yours)
        comparison = compared(
            ours.schema, yours.schema, key, self.options.columns, self.options.digits
        )
        ours = ours.of_columns(comparison.names(LEFT))
        yours = yours.of_columns(comparison.names(RIGHT))
        less = None
        if again is None:
            less = await narrowed(ours, yours, comparison, self.options.sample)
        keys_max = _KEYS_MAX if self.options.wait_s else 0
        into = self.options.into() if self.options.into else _ignored
        totals = _Totals(self.options.limit, keys_max, into)
        unread: dict[str, dict[str, Failures]] = {}
        if less is None or not less.is_equal:
            if less is not None:
                ours, yours = less.left, less.right
            sample = self.options.sample if less is None else None
            partitions = self._partitions(ours, yours, comparison, again, sample)
            unread = await _matched(ours, yours, comparison, partitions, totals)
        rows = (less.left_rows, less.right_rows) if less else (totals.left_rows, totals.right_rows)
        return _Found(comparison, key, totals, unread, *rows, checksums=less is not None)

    def _key(self, left: Reading, right: Reading) -> tuple[str, ...]:
        """The user's key, else that of a destination, else that of a catalogue whose columns both sides have."""
        if self.options.key:
            return self.options.key
        keys = (right.side.key, left.side.key, right.catalog_key(), left.catalog_key())
        for key in keys:
            names = {name.casefold() for name in key}
            if key and all(
                names <= {name.casefold() for name in each.schema.names} for each in (left, right)
            ):
                return key
        return ()

    def _partitions(
        self,
        left: Reading,
        right: Reading,
        comparison: Comparison,
        only: pl.DataFrame | None,
        sample: float | None,
    ) -> tuple[Partitions, Partitions]:
        settings = (each.part.workflow.settings for each in (left, right))
        memory = min(each.resources.memory for each in settings) // _MEMORY_PARTS
        return (
            Partitions(comparison, LEFT, memory, only=only, sample=sample),
            Partitions(comparison, RIGHT, memory, only=only, sample=sample),
        )


async def _matched(
    left: Reading,
    right: Reading,
    comparison: Comparison,
    partitions: tuple[Partitions, Partitions],
    totals: _Totals,
) -> dict[str, dict[str, Failures]]:
    """Read both sides at once, and match their rows. Rows that could not be read."""
    try:
        failures = await both(_into(left, LEFT, partitions[0]), _into(right, RIGHT, partitions[1]))
        for ours, yours in _parts(*partitions):
            totals.add(await asyncio.to_thread(match, ours, yours, comparison))
    finally:
        for each in partitions:
            each.close()
    return {side: each for side, each in zip((LEFT, RIGHT), failures, strict=True) if each}


class _Found(Struct, frozen=True):
    """What one reading found."""

    comparison: Comparison
    key: tuple[str, ...]
    totals: _Totals
    unread: Mapping[str, Mapping[str, Failures]]
    left_rows: int
    right_rows: int
    checksums: bool


class _AppearedOn(Exception):
    """New fields of a side."""

    def __init__(self, side: str, fields: FieldsAppeared) -> None:
        self.side, self.fields = side, fields


async def _into(reading: Reading, side: str, partitions: Partitions) -> dict[str, Failures]:
    try:
        return await reading.into(partitions)
    except FieldsAppeared as appeared:
        raise _AppearedOn(side, appeared) from appeared


def _parts(left: Partitions, right: Partitions) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Pairs of frames that hold the rows of the same keys."""
    if not left.is_spilled and not right.is_spilled:
        yield left.whole(), right.whole()
        return
    left.spill()
    right.spill()
    for number in range(PARTITIONS):
        yield left.part(number), right.part(number)


def _keys_again(before: _Found) -> pl.DataFrame | None:
    """The forms of the keys that differ. None: read everything again."""
    if not before.comparison.key or before.totals.differences > _KEYS_MAX:
        return None
    return pl.concat(before.totals.keys).unique()


def _pushed(
    left: Side, right: Side, comparison: Comparison, keys: pl.DataFrame
) -> tuple[Side, Side]:
    """The sides with a condition for few keys of one column, that systems can look up."""
    name = comparison.key[0].name
    same = comparison.key[0].left_type == comparison.key[0].right_type
    values, type_ = keys.to_series(), comparison.key[0].left_type
    told = type_.is_integer or type_.name == "string"
    if len(comparison.key) > 1 or not same or not told:
        return left, right
    if len(values) > _KEYS_PUSHED or values.has_nulls():
        return left, right
    texts = [_literal(value) for value in values]

    def condition(column: str) -> str:
        quoted = '"' + column.replace('"', '""') + '"'
        return f"{quoted} in ({', '.join(texts)})"

    return (
        filtered(left, condition(name)),
        filtered(right, condition(comparison.key[0].right_name)),
    )


def _literal(value: int | str) -> str:
    """A value in an expression of a workflow, where `${` begins a variable."""
    if isinstance(value, int):
        return str(value)
    return "'" + value.replace("'", "''").replace("${", "$${") + "'"


def _ignored(frame: pl.DataFrame) -> None:
    """No destination takes the differences."""
