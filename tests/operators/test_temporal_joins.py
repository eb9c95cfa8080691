"""`join` with `temporal`: each row has the version at its event time, whatever the order, cuts and crashes."""

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

from dataflare.model.types import Schema
from dataflare.operators import join_parts, timed_rows
from dataflare.operators.join_shape import join_shape
from dataflare.operators.join_temporal import TemporalJoin

LEFT, RIGHT = {"k": pl.Int64, "a": pl.Int64}, {"id": pl.Int32, "b": pl.Int64}


def temporal_join(kind: Any, max_age: int | None, streaming: bool) -> TemporalJoin:
    left, right = Schema.from_polars(LEFT), Schema.from_polars(RIGHT)
    shape = join_shape("tested", kind, {"k": "id"}, left, right, None)
    return TemporalJoin("tested", shape, ("k",), max_age, streaming)


def reference(
    kind: str, left: list[Row], right: list[Row], max_age: int | None
) -> list[tuple[Any, ...]]:
    rows = []
    for row in left:
        versions = [
            (version["at"], version["b"])
            for version in right
            if version["id"] is not None
            and version["id"] == row["k"]
            and version["at"] <= row["at"]
            and (max_age is None or version["at"] >= row["at"] - max_age)
        ]
        if versions:
            rows.append((row["k"], row["a"], max(versions)[1]))
        elif kind == "left":
            rows.append((row["k"], row["a"], None))
    return rows


def one_version_at_a_time(parts: list[list[Row]]) -> None:
    """Which of several versions with one time counts depends on their order, so there is one of each."""
    seen = set()
    for rows in parts:
        for row in rows:
            while (row["id"], row["at"]) in seen:
                row["id"] = (row["id"] or 0) + 5
            seen.add((row["id"], row["at"]))


@pytest.mark.parametrize("kind", ["inner", "left"])
@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_each_row_has_the_version_at_its_time(kind, seed):
    random = Random(seed)
    disorder = random.choice((None, 0, 5, 20))
    max_age = random.choice((None, 0, 20))
    left = random_splits(random, 0, LEFT, disorder)
    right = random_splits(random, 1, RIGHT, disorder, before=one_version_at_a_time)
    operator = temporal_join(kind, max_age, disorder is not None)
    with (
        mock.patch.object(join_parts, "PART_BYTES", random.choice((300, 2**20))),
        mock.patch.object(timed_rows, "SMALL_ROWS", random.choice((0, 7))),
    ):
        outcome = Play(operator, [s for s, _ in (*left, *right)], random, disorder).run()
    sides = [[in_time(rows, disorder) for _, rows in side] for side in (left, right)]
    good = [[row for part, _ in side for row in part] for side in sides]
    late = [[row for _, part in side for row in part] for side in sides]
    assert outcome.rows() == sorted(reference(kind, *good, max_age), key=repr)
    assert outcome.rows("late") == sorted(((r["k"], r["a"]) for r in late[0]), key=repr)
    assert outcome.rows("late_right") == sorted(((r["id"], r["b"]) for r in late[1]), key=repr)


ORDERS = timed(
    [
        {"currency": "EUR", "amount": 10, "at": at(5)},
        {"currency": "EUR", "amount": 20, "at": at(9)},
        {"currency": "EUR", "amount": 30, "at": at(10)},
        {"currency": "CHF", "amount": 40, "at": at(10)},
    ],
    "at",
    currency="string",
    amount="int64",
)
RATES = timed(
    [
        {"code": "EUR", "rate": 1.5, "from": at(5)},
        {"code": "EUR", "rate": 2.0, "from": at(10)},
        {"code": "EUR", "rate": 1.0, "from": at(9.5)},
    ],
    "from",
    code="string",
    rate="float64",
)


@pytest.mark.parametrize("mode", ["batch", "streaming"])
def test_a_version_is_valid_from_its_own_time_on(mode):
    config = "{on: {currency: code}, temporal: {}, kind: left}"
    rows = result_of(
        f"step: {{type: join, inputs: [o, r], config: {config}}}",
        o=ORDERS,
        r=RATES,
        settings=f"{{mode: {mode}, batch: {{initial: 1, min: 1, max: 1}}}}",
    )
    assert ordered([(row["amount"], row["rate"]) for row in rows]) == [
        (10, 1.5),
        (20, 1.5),
        (30, 2.0),
        (40, None),
    ]


def test_of_two_versions_with_one_time_the_last_one_counts():
    rates = timed(
        [{"code": "EUR", "rate": r, "from": at(5)} for r in (1.0, 3.0, 2.0)],
        "from",
        code="string",
        rate="float64",
    )
    config = "{on: {currency: code}, temporal: true}"
    rows = result_of(f"step: {{type: join, inputs: [o, r], config: {config}}}", o=ORDERS, r=rates)
    assert [row["rate"] for row in rows] == [2.0, 2.0, 2.0]


def test_a_version_grows_old():
    config = "{on: {currency: code}, temporal: {max_age: 3s}}"
    rows = result_of(
        f"step: {{type: join, inputs: [o, r], config: {config}}}",
        o=ORDERS,
        r=RATES,
        settings="{mode: batch}",
    )
    assert ordered([(row["amount"], row["rate"]) for row in rows]) == [(10, 1.5), (30, 2.0)]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{on: [k], temporal: {}, kind: full}", "`temporal` and kind full"),
        ("{on: [k], temporal: {}, within: 1m}", "`within` and `temporal`"),
    ],
)
def test_what_a_table_of_versions_cannot_answer_is_refused(config, words):
    rows = timed([{"k": 1, "t": at(1)}], "t", k="int64")
    shown = picture(
        f"step: {{type: join, inputs: [l, r], config: {config[:-1]}, suffix: _r}}}}", l=rows, r=rows
    )
    assert shown[0].startswith("error[E0405]")
    assert words in shown[0]


def test_a_table_without_an_event_time_is_refused():
    shown = picture(
        "step: {type: join, inputs: [o, r], config: {on: {currency: code}, temporal: {}}}",
        o=ORDERS,
        r=inline([{"code": "EUR", "rate": 1.0}]),
    )
    assert shown[0].startswith("error[E0331]")
