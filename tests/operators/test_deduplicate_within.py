"""`deduplicate` with `within`: which rows stay depends on their times alone."""

from __future__ import annotations

from random import Random
from typing import Any
from unittest import mock

import polars as pl
import pytest
from flows import ordered, picture, result_of
from hypothesis import given, settings
from hypothesis import strategies as st
from timed_runs import Play, Row, at, in_time, random_splits, timed

from dataflare.model.types import Schema
from dataflare.operators import join_interval, join_parts, timed_rows
from dataflare.operators.deduplicate_within import DeduplicateWithin

ROWS = {"k": pl.Int64, "a": pl.Int64}


def reference(rows: list[Row], within: int) -> list[tuple[Any, ...]]:
    staying, latest = [], {}
    for row in sorted(rows, key=lambda row: row["at"]):
        if row["k"] not in latest or row["at"] > latest[row["k"]] + within:
            latest[row["k"]] = row["at"]
            staying.append((row["k"], row["a"]))
    return staying


def times_differ(parts: list[list[Row]]) -> None:
    """Which of two rows with one time comes first depends on their order, so the times of a key differ."""
    seen = set()
    for rows in parts:
        for row in rows:
            while (row["k"], row["at"]) in seen:
                row["k"] = (row["k"] or 0) + 5
            seen.add((row["k"], row["at"]))


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_row_stays_unless_one_of_its_key_stayed_shortly_before(seed):
    random = Random(seed)
    disorder = random.choice((None, 0, 5, 20))
    within = random.choice((0, 1, 8, 60))
    splits = random_splits(random, 0, ROWS, disorder, before=times_differ)
    operator = DeduplicateWithin(
        "tested", ("k",), within, Schema.from_polars(ROWS), disorder is not None
    )
    with (
        mock.patch.object(join_parts, "PART_BYTES", random.choice((300, 2**20))),
        mock.patch.object(timed_rows, "SMALL_ROWS", random.choice((0, 7))),
        mock.patch.object(join_interval, "_SMALL_ROWS", random.choice((5, 10**6))),
    ):
        outcome = Play(operator, [split for split, _ in splits], random, disorder).run()
    parts = [in_time(rows, disorder) for _, rows in splits]
    good = [row for part, _ in parts for row in part]
    assert outcome.rows() == sorted(reference(good, within), key=repr)
    late = [(row["k"], row["a"]) for _, part in parts for row in part]
    assert outcome.rows("late") == sorted(late, key=repr)


EVENTS = timed(
    [
        {"id": "x", "n": 1, "t": at(1)},
        {"id": "x", "n": 2, "t": at(11)},
        {"id": "y", "n": 3, "t": at(12)},
        {"id": "x", "n": 4, "t": at(11.001)},
        {"id": "x", "n": 5, "t": at(2)},
    ],
    "t",
    id="string",
    n="int64",
)


@pytest.mark.parametrize("mode", ["batch", "streaming"])
def test_the_end_of_within_is_included_and_late_rows_have_an_output(mode):
    kept, late = result_of(
        "step: {type: deduplicate, inputs: [e], config: {key: id, within: 10s}}",
        outputs={"kept": "step", "late": "step.late"},
        e=EVENTS,
        settings=f"{{mode: {mode}, parallelism: 2}}",
    )
    assert ordered([row["n"] for row in kept]) == [1, 3, 4]
    assert [row["n"] for row in late] == ([] if mode == "batch" else [5])


@pytest.mark.parametrize("more", ["keep: last", "order_by: n"])
def test_within_keeps_the_first_by_time_only(more):
    shown = picture(
        f"step: {{type: deduplicate, inputs: [e], config: {{key: id, within: 10s, {more}}}}}",
        e=EVENTS,
    )
    assert shown[0].startswith("error[E0405]: step 'step' has `within`")
