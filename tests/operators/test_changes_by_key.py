"""`aggregate` and `deduplicate` of a changelog: what is left of the result is what DuckDB makes of the rows that are
left."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import polars as pl
import pytest
from changelogs import applied, asked, changelog_of, cut, history, listed
from flows import inline, refused, result_of

from dataflare.model.batch import CHANGES, KIND_COLUMN
from dataflare.model.types import Schema
from dataflare.operators.base import ERROR_COLUMN
from dataflare.state.tables import Tables
from dataflare.testing import check_processor
from dataflare.testing.build import processor_of

SCHEMA = {
    "k": "string",
    "v": "int64",
    "d": "decimal(12, 2)",
    "f": "float64",
    "b": "bool",
    "t": "int64",
}

MEASURES = {
    "sums": {
        "n": "count(*)", "values": "count(v)", "total": "sum(v)", "money": "sum(d)", "mean": "avg(v)",
        "dear": "avg(d)", "yes": "count_if(b)", "both": "sum(v) + count(*)",
    },
    "values": {
        "n": "count(*)", "low": "min(v)", "high": "max(f)", "kinds": "count(distinct v)", "float": "sum(f)",
        "half": "median(v)", "every": "bool_and(b)", "newest": "arg_max(v, t)", "all": "string_agg(k ORDER BY t)",
    },
}  # fmt: skip

QUERY = {
    "sums": "count(*), count(v), sum(v)::BIGINT, sum(d), avg(v), avg(d), count_if(b)::BIGINT, (sum(v) + count(*))::BIGINT",
    "values": "count(*), min(v), max(f), count(distinct v), sum(f), median(v), bool_and(b), arg_max(v, t), "
    "string_agg(k, ',' ORDER BY t)",
}


def drawn(rng: random.Random) -> tuple[Any, ...]:
    from decimal import Decimal

    v = rng.choice((None, 0, 1, 2, -3))
    return (
        rng.choice((None, "a", "b")), v, Decimal(rng.randrange(-300, 300)) / 100,
        rng.randrange(8) / 2, rng.choice((None, True, False)), rng.randrange(10**6),
    )  # fmt: skip


def plain(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Floats that may differ in their last digits as rounded ones."""
    return listed(
        tuple(round(each, 9) if isinstance(each, float) else each for each in row) for row in rows
    )


@pytest.mark.parametrize("by", [["k"], []])
@pytest.mark.parametrize("which", ["sums", "values"])
def test_an_aggregate_of_a_changelog_is_that_of_the_rows_that_are_left(
    which: str, by: list[str]
) -> None:
    config = {"group_by": by, "measures": MEASURES[which], "emit": "updates"}
    step = processor_of("aggregate", config, Schema.of(SCHEMA), kinds=[CHANGES])
    query = f"SELECT {'k, ' * bool(by)}{QUERY[which]} FROM t {'GROUP BY k' * bool(by)}"
    for seed in range(6):
        rng = random.Random(seed)
        log = changelog_of(SCHEMA, history(rng, rng.randrange(1, 50), drawn))
        [rows] = step.prepared(log)
        live, results, at = step.operator.open(Tables()), [], 0
        for batch in cut(rng, rows):
            at += batch.height
            for frame in live.process(0, batch):
                results.append(frame.drop(ERROR_COLUMN, strict=False))
            if rng.random() < 0.15 or at == rows.height:
                there = log.head(at)
                left = applied([there])
                table = changelog_of(SCHEMA, []).drop(KIND_COLUMN)
                table = pl.DataFrame(left, schema=table.schema, orient="row")
                assert plain(applied(results)) == plain(asked(query, t=table)), seed


def test_without_rows_there_is_one_total() -> None:
    config = {"measures": {"n": "count(*)", "total": "sum(v)"}, "emit": "updates"}
    step = processor_of("aggregate", config, Schema.of(SCHEMA), kinds=[CHANGES])
    [total] = step.operator.open(Tables()).end(0)
    assert applied([total.drop(ERROR_COLUMN)]) == [(0, None)]


ORDERS = {"the newest": ("last", "t", "DESC"), "the oldest": ("first", "t", "ASC")}


@pytest.mark.parametrize("which", ORDERS)
def test_the_row_that_stays_is_one_of_those_that_are_left(which: str) -> None:
    keep, by, order = ORDERS[which]
    config = {"key": ["k"], "keep": keep, "order_by": by}
    step = processor_of("deduplicate", config, Schema.of(SCHEMA), kinds=[CHANGES])
    query = (
        "SELECT * EXCLUDE (place) FROM (SELECT *, row_number() OVER (PARTITION BY k "
        f"ORDER BY t {order}) AS place FROM t) WHERE place = 1"
    )
    for seed in range(6):
        rng = random.Random(seed)
        log = changelog_of(SCHEMA, history(rng, 40, drawn, key=5))
        live = step.operator.open(Tables())
        results = [frame for batch in cut(rng, log) for frame in live.process(0, batch)]
        table = pl.DataFrame(applied([log]), schema=log.drop(KIND_COLUMN).schema, orient="row")
        assert applied(results) == asked(query, t=table), seed


@pytest.mark.parametrize("which", ["sums", "values", "first"])
def test_they_keep_the_laws_of_steps_with_state(which: str) -> None:
    if which == "first":
        step = processor_of("deduplicate", {"key": ["k"]}, Schema.of(SCHEMA), kinds=[CHANGES])
    else:
        config = {"group_by": ["k"], "measures": MEASURES[which], "emit": "updates"}
        step = processor_of("aggregate", config, Schema.of(SCHEMA), kinds=[CHANGES])
    log = changelog_of(SCHEMA, history(random.Random(3), 30, drawn))
    skip = ["results_go_on", "waiting_results_find_a_subtask"]  # nothing waits for the end
    asyncio.run(check_processor(step, log, skip=skip))


LOG = inline(
    [
        {"_op": "insert", "id": 1, "n": 5, "t": "a"},
        {"_op": "insert", "id": 2, "n": 9, "t": "a"},
        {"_op": "update_before", "id": 1, "n": 5, "t": "a"},
        {"_op": "update_after", "id": 1, "n": 1, "t": "b"},
        {"_op": "delete", "id": 2, "n": 9, "t": "a"},
        {"_op": "insert", "id": 3, "n": 2, "t": "b"},
    ]
).replace("{type: inline, config: {", "{type: inline, config: {changelog: columns, ")


@pytest.mark.parametrize(
    ("step", "rows"),
    [
        ("type: sort, inputs: [s], config: {by: n}", [{"id": 1, "n": 1, "t": "b"}, {"id": 3, "n": 2, "t": "b"}]),
        ("type: aggregate, inputs: [s], config: {group_by: [t], measures: {low: min(n)}}", [{"t": "b", "low": 1}]),
        ("type: sql, inputs: [s], config: {query: SELECT sum(n)::BIGINT AS n FROM s}", [{"n": 3}]),
    ],
)  # fmt: skip
def test_what_comes_at_the_end_is_made_of_the_rows_that_are_left(step: str, rows: Any) -> None:
    assert result_of(f"step: {{{step}}}", s=LOG) == rows


@pytest.mark.parametrize("measure", ["first(n)", "last(n)", "list(n)", "string_agg(t)"])
def test_a_measure_by_the_order_of_rows_is_refused(measure: str) -> None:
    block = refused(
        f"step: {{type: aggregate, inputs: [s], config: {{measures: {{x: '{measure}'}}}}}}", s=LOG
    )
    assert block.startswith("error[E0315]: step 'step' receives a changelog, and ")
    assert "depends on the order" in block


def test_an_endless_changelog_is_summed_up_by_its_changes() -> None:
    steps = (
        "orders: {type: aggregate, inputs: [s], config: {group_by: [id], measures: {n: max(n)}, emit: updates}}\n"
        "step: {type: aggregate, inputs: [orders], config: {measures: {orders: count(*), total: sum(n)}, emit: updates}}"
    )
    made = result_of(steps, s=LOG)
    there: list[Any] = []
    for row in made:
        kind = row.pop("_op")
        there.remove(row) if kind in ("delete", "update_before") else there.append(row)
    assert there == [{"orders": 2, "total": 3}]
