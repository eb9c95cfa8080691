"""Joins and `deduplicate` with `within` that have changed go on from their state, for random rows: what comes out is
that of nested loops which say by which version of the step each row is decided."""

from __future__ import annotations

from random import Random
from typing import Any

import polars as pl
import pytest
from changed_steps import changed
from hypothesis import given, settings
from hypothesis import strategies as st
from test_deduplicate_within import times_differ
from test_interval_joins import LEFT, RIGHT, interval_join, reference
from timed_runs import Play, Row, Split, in_time, random_splits

from dataflare.jobs.changes import StepChange
from dataflare.model.event_time import NEVER
from dataflare.model.types import INT64, Field, Schema
from dataflare.operators.base import StatefulOperator
from dataflare.operators.deduplicate_within import DeduplicateWithin
from dataflare.operators.join_interval import IntervalJoin
from dataflare.operators.join_pairs import Pairing, Reach
from dataflare.operators.join_shape import join_shape
from dataflare.operators.join_temporal import TemporalJoin
from dataflare.operators.ordering import Order
from dataflare.operators.sort import Sort

pytestmark = pytest.mark.rotates(2)

WIDER = Schema((*Schema.from_polars(LEFT), Field("x", INT64)))
RIGHT_SCHEMA = Schema.from_polars(RIGHT)


class Halfway:
    """A run that is stopped in the middle."""

    def __init__(
        self, operator: StatefulOperator, splits: list[Split], random: Random, disorder: int | None
    ) -> None:
        self.random = random
        self.play = Play(operator, splits, random, disorder)
        total = sum(split.rows.height for split in splits)
        while sum(split.place for split in splits) < total // 2:
            random.choice((self.play._read, self.play._read, self.play._tell))()
        self.shares = self.play._stored()
        self.read = {row for split in splits for row in split.rows[: split.place].rows()}
        times = [share.values.get("time", NEVER) for share in self.shares]
        self.time = max(times, default=NEVER)
        self.given = len(self.play.outcome.main)

    def go_on(self, operator: StatefulOperator) -> StepChange:
        """With another version of the step, unless that is impossible."""
        old = self.play.operator
        layouts = [each.layout([]) for each in (old, operator)]
        assert layouts[0] is not None
        assert layouts[1] is not None
        change, moved = changed((old, layouts[0]), (operator, layouts[1]), self.shares)
        if change.outcome != "impossible":
            self.play.operator = operator
            self.play._open(self.random.randint(1, 3), moved)
            self.play.run()
        return change

    def rows(self, *columns: str) -> list[tuple[Any, ...]]:
        frames = [frame.select(columns) for frame in self.play.outcome.main]
        return sorted((row for frame in frames for row in frame.rows()), key=repr)


def sides(random: Random, disorder: int | None) -> tuple[list[Split], list[list[Row]]]:
    """The splits of two inputs, and their rows that are in time."""
    parts = [
        random_splits(random, port, names, disorder) for port, names in enumerate((LEFT, RIGHT))
    ]
    good = [[row for _, rows in side for row in in_time(rows, disorder)[0]] for side in parts]
    return [split for side in parts for split, _ in side], good


def wider(splits: list[Split], names: list[str]) -> None:
    """The rows that are still to come have a column more, twice `a`."""
    for split in splits:
        if split.port == 0:
            others = [name for name in split.rows.columns if name not in names]
            split.rows = split.rows.select(*names, (pl.col("a") * 2).alias("x"), *others)


OPERATORS = {
    **{
        f"interval {kind}": lambda left, streaming, kind=kind: IntervalJoin(
            "w",
            Pairing(join_shape("w", kind, {"k": "id"}, left, RIGHT_SCHEMA, None), Reach(5, 3), streaming),
            ("k",),
        )
        for kind in ("inner", "left", "full", "anti")
    },
    **{
        f"temporal {kind}": lambda left, streaming, kind=kind: TemporalJoin(
            "w", join_shape("w", kind, {"k": "id"}, left, RIGHT_SCHEMA, None), ("k",), None, streaming
        )
        for kind in ("inner", "left")
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_rows_that_are_kept_have_null_in_a_column_that_is_new(name, seed):
    disorder = Random(seed).choice((None, 0, 5))
    outcomes = []
    for changes in (False, True):
        random = Random(seed)
        splits, _ = sides(random, disorder)
        make = OPERATORS[name]
        half = Halfway(
            make(Schema.from_polars(LEFT), disorder is not None), splits, random, disorder
        )
        read = {
            row[1]
            for split in splits
            if split.port == 0
            for row in split.rows[: split.place].rows()
        }
        if changes:
            wider(splits, list(LEFT))
        now = make(WIDER if changes else Schema.from_polars(LEFT), disorder is not None)
        assert half.go_on(now).outcome != "impossible"
        columns = ("k", "a", "b") if name.split()[1] not in ("semi", "anti") else ("k", "a")
        outcomes.append(half.rows(*columns))
        for frame in half.play.outcome.main[half.given :] if changes else ():
            for a, x in frame.select("a", "x").rows():
                assert x == (None if a is None or a in read else 2 * a)
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("kind", ["inner", "semi", "anti", "left", "right", "full"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_another_within(kind, seed):
    random = Random(seed)
    disorder = random.choice((None, 0, 5))
    old = Reach(random.choice((2, 15)), random.choice((2, 15)))
    new = Reach(random.choice((0, 2, 20)), random.choice((0, 2, 20)))
    splits, (left, right) = sides(random, disorder)
    half = Halfway(interval_join(kind, old, disorder is not None), splits, random, disorder)
    has_rows = any(chunks for share in half.shares for chunks in share.chunks.values())
    change = half.go_on(interval_join(kind, new, disorder is not None))
    grows = new.before > old.before or new.after > old.after
    if kind in ("left", "right", "full") or (grows and kind != "inner"):
        assert (change.outcome == "impossible") == (has_rows and old != new)
        return
    assert change.outcome != "impossible"
    if kind != "inner":
        decided = [row for row in left if row["at"] < half.time - old.after]
        others = [row for row in left if row["at"] >= half.time - old.after]
        # A row with a NULL in its key is decided when it comes.
        wanted = reference(kind, decided, right, old) + reference(kind, others, right, new)
        assert half.rows("k", "a") == sorted(wanted, key=repr)
        return
    settled = [[row for row in side if row["at"] < half.time] for side in (left, right)]
    before = set(reference("inner", *settled, old))
    after = set(reference("inner", left, right, new)) - set(reference("inner", *settled, new))
    found = half.rows("k", "a", "b")
    assert len(found) == len(set(found))
    if not grows:
        assert set(found) == before | after
    else:
        within_both = Reach(min(old.before, new.before), min(old.after, new.after))
        sure = set(reference("inner", left, right, within_both)) - set(
            reference("inner", *settled, within_both)
        )
        assert before | sure <= set(found) <= before | after


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_deduplicate_with_a_shorter_memory(seed):
    random = Random(seed)
    disorder = random.choice((None, 0, 5))
    old, new = random.choice(((8, 0), (60, 8), (8, 8)))
    rows_of = {"k": pl.Int64, "a": pl.Int64}
    parts = random_splits(random, 0, rows_of, disorder, before=times_differ)
    schema = Schema.from_polars(rows_of)
    make = lambda within: DeduplicateWithin("w", ("k",), within, schema, disorder is not None)  # noqa: E731
    half = Halfway(make(old), [split for split, _ in parts], random, disorder)
    assert half.go_on(make(new)).outcome != "impossible"
    wanted, latest = [], {}
    rows = [row for _, rows in parts for row in in_time(rows, disorder)[0]]
    for row in sorted(rows, key=lambda row: row["at"]):
        within = old if row["at"] < half.time else new
        if row["k"] not in latest or row["at"] > latest[row["k"]] + within:
            latest[row["k"]] = row["at"]
            wanted.append((row["k"], row["a"]))
    assert half.rows("k", "a") == sorted(wanted, key=repr)


def test_what_cannot_be_right_is_refused_with_the_reason():
    random = Random(5)
    splits, _ = sides(random, 5)
    make = OPERATORS["interval inner"]
    half = Halfway(make(Schema.from_polars(LEFT), True), splits, random, 5)
    assert any(share.chunks["waiting_0"] for share in half.shares)
    other_kind = half.go_on(OPERATORS["interval left"](Schema.from_polars(LEFT), True))
    assert other_kind.outcome == "impossible"
    assert "an inner join, and is a left join" in other_kind.detail
    other_type = Schema.from_polars({"k": pl.Int64, "a": pl.String})
    assert (
        "'a' of the rows that it keeps was int64, and is string"
        in half.go_on(make(other_type, True)).detail
    )


def test_a_sort_takes_another_order_until_it_gives_rows():
    order = Order(("a",), (False,), (True,))
    down = Order(("a",), (True,), (True,))
    rows_of = {"k": pl.Int64, "a": pl.Int64}
    for moves in (False, True):
        random = Random(5)
        parts = random_splits(random, 0, rows_of, None)
        schema = Schema.from_polars(rows_of)
        half = Halfway(Sort("w", order, 10**9, schema), [s for s, _ in parts], random, None)
        if moves:
            next(iter(half.play.lives[0].end(0)))
            half.shares = half.play._stored()
        change = half.go_on(Sort("w", down, 10**9, schema))
        assert (change.outcome == "impossible") == moves
