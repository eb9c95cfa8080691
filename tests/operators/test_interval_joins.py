"""`join` with `within`: the pairs are those of two nested loops, whatever the order, cuts and crashes."""

from __future__ import annotations

from random import Random
from typing import Any
from unittest import mock

import polars as pl
import pytest
from flows import inline, ordered, picture, result_of
from hypothesis import given, settings
from hypothesis import strategies as st
from timed_runs import Play, Row, at, in_time, random_splits, timed

from dataflare.model.event_time import TIME_COLUMN
from dataflare.model.types import Schema
from dataflare.operators import join_interval, join_pairs, join_parts, join_rows, timed_rows
from dataflare.operators.join_interval import IntervalJoin
from dataflare.operators.join_pairs import Pairing, Reach
from dataflare.operators.join_shape import join_shape
from dataflare.state.tables import Tables
from dataflare.testing.processors import InMemory

KINDS = ("inner", "left", "right", "full", "semi", "anti")
LEFT, RIGHT = {"k": pl.Int64, "a": pl.Int64}, {"id": pl.Int32, "b": pl.Int64}


def interval_join(kind: Any, reach: Reach, streaming: bool) -> IntervalJoin:
    left, right = Schema.from_polars(LEFT), Schema.from_polars(RIGHT)
    shape = join_shape("tested", kind, {"k": "id"}, left, right, None)
    return IntervalJoin("tested", Pairing(shape, reach, streaming), ("k",))


def reference(kind: str, left: list[Row], right: list[Row], reach: Reach) -> list[tuple[Any, ...]]:
    pairs = [
        (own, other)
        for own in left
        for other in right
        if own["k"] is not None
        and own["k"] == other["id"]
        and -reach.before <= other["at"] - own["at"] <= reach.after
    ]
    matched = {row["a"] for row, _ in pairs}, {row["b"] for _, row in pairs}
    rows = [(own["k"], own["a"], other["b"]) for own, other in pairs]
    if kind in ("semi", "anti"):
        return [(r["k"], r["a"]) for r in left if (r["a"] in matched[0]) == (kind == "semi")]
    if kind in ("left", "full"):
        rows += [(r["k"], r["a"], None) for r in left if r["a"] not in matched[0]]
    if kind in ("right", "full"):
        rows += [(r["id"], None, r["b"]) for r in right if r["b"] not in matched[1]]
    return rows


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_pairs_near_in_time_come_out_once(kind, seed):
    random = Random(seed)
    disorder = random.choice((None, 0, 5, 20))
    reach = Reach(random.choice((0, 2, 15)), random.choice((0, 2, 15)))
    left = random_splits(random, 0, LEFT, disorder)
    right = random_splits(random, 1, RIGHT, disorder)
    operator = interval_join(kind, reach, disorder is not None)
    small = random.random() < 0.5
    with (
        mock.patch.object(join_parts, "PART_BYTES", 300 if small else 2**20),
        mock.patch.object(join_rows, "CHUNK_ROWS", 3 if small else 10**6),
        mock.patch.object(join_pairs, "CHUNK_ROWS", 3 if small else 10**6),
        mock.patch.object(join_pairs, "_SLICE_ROWS", random.choice((2, 10**6))),
        mock.patch.object(join_interval, "_SMALL_ROWS", random.choice((5, 10**6))),
        mock.patch.object(timed_rows, "SMALL_ROWS", random.choice((0, 7))),
    ):
        outcome = Play(operator, [s for s, _ in (*left, *right)], random, disorder).run()
    sides = [[in_time(rows, disorder) for _, rows in side] for side in (left, right)]
    good = [[row for part, _ in side for row in part] for side in sides]
    late = [[row for _, part in side for row in part] for side in sides]
    assert outcome.rows() == sorted(reference(kind, *good, reach), key=repr)
    assert outcome.rows("late") == sorted(((r["k"], r["a"]) for r in late[0]), key=repr)
    assert outcome.rows("late_right") == sorted(((r["id"], r["b"]) for r in late[1]), key=repr)


ORDERS = timed(
    [{"k": 1, "a": 1, "t": at(1)}, {"k": 1, "a": 2, "t": at(30)}], "t", k="int64", a="int64"
)
PAYMENTS = timed(
    [
        {"k": 1, "b": 7, "paid": at(6)},
        {"k": 1, "b": 8, "paid": at(11)},
        {"k": 1, "b": 9, "paid": at(0.999)},
    ],
    "paid",
    k="int64",
    b="int64",
)


@pytest.mark.parametrize("mode", ["batch", "streaming"])
def test_both_ends_of_within_are_included(mode):
    step = "step: {type: join, inputs: [o, p], config: {on: [k], within: {after: 10s}}}"
    rows = result_of(step, o=ORDERS, p=PAYMENTS, settings=f"{{mode: {mode}}}")
    assert ordered([(row["a"], row["b"]) for row in rows]) == [(1, 7), (1, 8)]
    step = "step: {type: join, inputs: [o, p], config: {on: [k], kind: left, within: {before: 1s, after: 5s}}}"
    rows = result_of(step, o=ORDERS, p=PAYMENTS, settings=f"{{mode: {mode}}}")
    wanted = [(1, 7), (1, 9), (2, None)] if mode == "batch" else [(1, 7), (2, None)]
    assert ordered([(row["a"], row["b"]) for row in rows]) == wanted


def test_late_rows_of_both_sides_have_outputs_of_their_own():
    both, late, late_right = result_of(
        "step: {type: join, inputs: [o, p], config: {on: [k], within: 1m}}",
        outputs={"both": "step", "late": "step.late", "late_right": "step.late_right"},
        o=ORDERS,
        p=PAYMENTS,
        settings="{mode: streaming}",
    )
    assert len(both) == 4
    assert late == []
    assert [row["b"] for row in late_right] == [9]


def test_rows_that_were_only_collected_are_sorted_when_the_watermark_moves_again():
    """A run in batch mode whose state goes on in streaming mode."""
    tables = Tables(storage=InMemory())
    rows = pl.DataFrame({"k": [1, 2, 3], TIME_COLUMN: [30, 10, 20]})
    timed_rows.TimedRows(tables.rows("waiting", ["k"]), moves=False).add(rows)
    restored = Tables(storage=InMemory(), shares=[tables.store(tables.freeze())])
    waiting = timed_rows.TimedRows(restored.rows("waiting", ["k"]))
    taken = waiting.take(25)
    assert taken is not None
    assert taken["k"].to_list() == [2, 3]
    assert waiting.rows == 1


@pytest.mark.parametrize(
    ("reach", "shown"),
    [
        (Reach(500_000, 500_000), "inner join on k = id within 500ms"),
        (Reach(0, 7_200_000_000), "inner join on k = id within 0s before and 2h after"),
        (Reach(1, 1), "inner join on k = id within 1us"),
    ],
)
def test_a_plan_says_how_near_rows_are(reach, shown):
    assert interval_join("inner", reach, True).describe() == shown


def test_an_input_without_an_event_time_is_refused():
    shown = picture(
        "step: {type: join, inputs: [o, p], config: {on: [k], within: 1m}}",
        o=ORDERS,
        p=inline([{"k": 1, "b": 1}]),
    )
    assert shown[0].startswith("error[E0331]: step 'step' works by event time, and its input 'p'")


@pytest.mark.parametrize("within", ["often", "{before: 1s, behind: 2s}", "-1s"])
def test_a_wrong_within_is_refused_at_its_place(within):
    shown = picture(
        f"step: {{type: join, inputs: [o, p], config: {{on: [k], within: {within}}}}}",
        o=ORDERS,
        p=PAYMENTS,
    )
    assert "within" in shown[0]
    assert "^" in "".join(shown)
