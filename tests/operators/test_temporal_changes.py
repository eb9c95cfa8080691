"""`join` with `temporal` whose table is a changelog: each row has what DuckDB finds at its event time, whatever the
batches, watermarks, checkpoints and the parallelism."""

from __future__ import annotations

from random import Random
from typing import Any
from unittest import mock

import polars as pl
import pytest
from changelogs import asked
from flows import ordered, refused, result_of
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from test_changed_joins import Halfway
from timed_runs import Play, Row, Split, at, in_time, random_splits, split_of, timed

from dataflare.model.batch import CHANGES, KIND_COLUMN, RowKind
from dataflare.model.types import Schema
from dataflare.operators import join_parts, timed_rows
from dataflare.operators.join_shape import join_shape
from dataflare.operators.join_temporal import TemporalJoin
from dataflare.state.tables import Tables

LEFT, RIGHT = {"k": pl.Int64, "a": pl.Int64}, {"id": pl.Int32, "b": pl.Int64}

QUERY = """
WITH ranked AS (
    SELECT l.k, l.a, r.b, r.kind, row_number() OVER (PARTITION BY l.a ORDER BY r.at DESC NULLS LAST) AS place
    FROM l LEFT JOIN r ON l.k = r.id AND r.at <= l.at AND r.at >= l.at - AGE
)
SELECT k, a, CASE WHEN kind <> 3 THEN b END AS b FROM ranked WHERE place = 1
"""
"""Of each row, the last insert or delete of its key. 3 is a delete."""


def temporal_join(kind: Any, max_age: int | None, streaming: bool) -> TemporalJoin:
    left, right = Schema.from_polars(LEFT), Schema.from_polars(RIGHT)
    shape = join_shape("tested", kind, {"k": "id"}, left, right, None)
    return TemporalJoin("tested", shape, ("k",), max_age, streaming, changes=True, accepts=CHANGES)


def table_split(random: Random, disorder: int | None, number: int) -> tuple[Split, list[Row]]:
    """Changes of some keys that no other split has, out of order. An update has two halves, and the first of them
    has an older time, as if the time were a column of the row."""
    rows: list[Row] = []
    there: dict[int, tuple[int, int]] = {}
    seen: set[tuple[int, int]] = set()
    time = random.randint(-20, 20)
    # Keys without rows of the other side make the state larger, so that it has several levels.
    keys = random.choice((2, 2, 9))
    for i in range(random.choice((0, 5, 40, 80))):
        time += random.choice((0, 1, 1, 9))
        key = random.choice((random.randint(0, 2), random.randint(0, keys))) * 2 + number
        moment = time - random.choice((0, 0, 3, 12))
        while (key, moment) in seen:
            moment += 1
        seen.add((key, moment))
        value = number * 1_000 + i
        new = {"id": key, "b": value, "at": moment}
        if key not in there:
            rows.append({**new, "kind": RowKind.INSERT})
            there[key] = (value, moment)
        elif random.random() < 0.5:
            old, begun = there[key]
            rows.append({"id": key, "b": old, "at": begun, "kind": RowKind.UPDATE_BEFORE})
            rows.append({**new, "kind": RowKind.UPDATE_AFTER})
            there[key] = (value, moment)
        else:
            rows.append({"id": key, "b": there.pop(key)[0], "at": moment, "kind": RowKind.DELETE})
    split = split_of(1, rows, RIGHT, disorder)
    kinds = pl.Series(KIND_COLUMN, [row["kind"].value for row in rows], dtype=pl.UInt8)
    split.rows = split.rows.with_columns(kinds)
    return split, rows


def table(rows: list[Row], names: list[str]) -> pl.DataFrame:
    data = [[row[name] for name in names] for row in rows]
    return pl.DataFrame(data, schema=dict.fromkeys(names, pl.Int64), orient="row")


@pytest.mark.parametrize("kind", ["inner", "left"])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_each_row_has_what_was_there_at_its_time(kind: str, seed: int) -> None:
    random = Random(seed)
    disorder = random.choice((None, 0, 5, 20))
    max_age = random.choice((None, None, 20))
    left = random_splits(random, 0, LEFT, disorder)
    right = [table_split(random, disorder, number) for number in range(random.randint(1, 2))]
    operator = temporal_join(kind, max_age, disorder is not None)
    with (
        mock.patch.object(join_parts, "PART_BYTES", random.choice((300, 2**20))),
        mock.patch.object(timed_rows, "SMALL_ROWS", random.choice((0, 7))),
    ):
        outcome = Play(operator, [s for s, _ in (*left, *right)], random, disorder).run()
    rows, late = (
        [*each] for each in zip(*(in_time(rows, disorder) for _, rows in left), strict=True)
    )
    changes, too_late = (
        [*each] for each in zip(*(in_time(rows, disorder) for _, rows in right), strict=True)
    )
    counts = [r for part in changes for r in part if r["kind"] != RowKind.UPDATE_BEFORE]
    found = asked(
        QUERY.replace("AGE", str(10**9 if max_age is None else max_age)),
        l=table([row for part in rows for row in part], ["k", "a", "at"]),
        r=table(counts, ["id", "b", "at", "kind"]),
    )
    assert outcome.rows() == [row for row in found if kind == "left" or row[2] is not None]
    assert outcome.rows("late") == sorted(
        ((row["k"], row["a"]) for part in late for row in part), key=repr
    )
    assert outcome.rows("late_right") == sorted(
        (
            (row["id"], row["b"], "delete" if row["kind"] == RowKind.DELETE else "insert")
            for part in too_late
            for row in part
            if row["kind"] != RowKind.UPDATE_BEFORE
        ),
        key=repr,
    )


ORDERS = timed(
    [{"currency": "EUR", "amount": n, "at": at(n)} for n in (1, 3, 5, 7, 9)],
    "at",
    currency="string",
    amount="int64",
)
CHANGED = [
    ("insert", "EUR", 1.0, 2),
    ("update_before", "EUR", 1.0, 4),
    ("update_after", "EUR", 2.0, 4),
    ("delete", "EUR", 2.0, 6),
    ("insert", "EUR", 3.0, 8),
]


def rates(changes: list[tuple[str, str, float, float]]) -> str:
    rows = [{"_op": op, "code": c, "rate": r, "from": at(time)} for op, c, r, time in changes]
    text = timed(rows, "from", code="string", rate="float64")
    return text.replace("config: {", "config: {changelog: columns, ", 1)


@pytest.mark.parametrize("mode", ["batch", "streaming"])
@pytest.mark.parametrize("kind", ["inner", "left"])
def test_a_row_between_a_delete_and_an_insert_has_no_version(kind: str, mode: str) -> None:
    rows = result_of(
        f"step: {{type: join, inputs: [o, r], config: {{on: {{currency: code}}, temporal: {{}}, kind: {kind}}}}}",
        o=ORDERS,
        r=rates(CHANGED),
        settings=f"{{mode: {mode}, batch: {{initial: 2, min: 2, max: 2}}}}",
    )
    expected = [(1, None), (3, 1.0), (5, 2.0), (7, None), (9, 3.0)]
    made = ordered([(row["amount"], row["rate"]) for row in rows])
    assert made == [row for row in expected if kind == "left" or row[1] is not None]


def test_an_update_of_the_key_ends_the_version_of_the_old_one() -> None:
    """Also where another row takes the key at the same time, and its change comes first."""
    swapped = [
        ("insert", "EUR", 1.0, 0),
        ("insert", "CHF", 2.0, 0),
        ("update_before", "CHF", 2.0, 4),
        ("update_after", "EUR", 2.0, 4),
        ("update_before", "EUR", 1.0, 4),
        ("update_after", "USD", 1.0, 4),
    ]
    made = result_of(
        "step: {type: join, inputs: [o, r], config: {on: {currency: code}, temporal: {}, kind: left}}",
        o=timed(
            [{"currency": c, "n": 0, "at": at(n)} for n in (3, 5) for c in ("CHF", "EUR", "USD")],
            "at", currency="string", n="int64",
        ),
        r=rates(swapped),
        settings="{mode: streaming, parallelism: 3}",
    )  # fmt: skip
    shown = ordered([(str(row["at"])[17:19], row["currency"], row["rate"]) for row in made])
    assert shown == [
        ("03", "CHF", 2.0), ("03", "EUR", 1.0), ("03", "USD", None),
        ("05", "CHF", None), ("05", "EUR", 2.0), ("05", "USD", 1.0),
    ]  # fmt: skip


def test_a_late_delete_is_given_with_its_kind_and_ends_nothing() -> None:
    made, late = result_of(
        "step: {type: join, inputs: [o, r], config: {on: {currency: code}, temporal: {}, kind: left}}",
        outputs={"out": "step", "late": "step.late_right"},
        o=ORDERS,
        r=rates([("insert", "EUR", 1.0, 2), ("insert", "CHF", 1.0, 8), ("delete", "EUR", 1.0, 2)]),
        settings="{mode: streaming, batch: {initial: 1, min: 1, max: 1}}",
    )
    assert [(row["code"], row["rate"], row["_op"]) for row in late] == [("EUR", 1.0, "delete")]
    assert ordered([(row["amount"], row["rate"]) for row in made])[1:] == [
        (n, 1.0) for n in (3, 5, 7, 9)
    ]


def test_a_stream_that_changes_is_refused() -> None:
    block = refused(
        "step: {type: join, inputs: [r, o], config: {on: {code: currency}, temporal: {}}}",
        o=ORDERS,
        r=rates(CHANGED),
    )
    assert block.startswith("error[E0315]: step 'step' receives a changelog")
    assert "the rows of its first input may not change" in block


def test_a_table_with_a_column_of_the_name_is_refused() -> None:
    block = refused(
        "named: {type: map, inputs: [r], config: {derive: {_op: rate}}}\n"
        "step: {type: join, inputs: [o, named], config: {on: {currency: code}, temporal: {}}}",
        o=ORDERS,
        r=rates(CHANGED),
    )
    assert block.startswith("error[E0311]")


@pytest.mark.parametrize("was", [True, False])
def test_state_of_a_table_that_changed_is_not_taken_for_that_of_one_that_grew(was: bool) -> None:
    random = Random(7)
    left = random_splits(random, 0, LEFT, 5)
    right = [table_split(Random(2), 5, 0)]
    if not was:
        right[0][0].rows = right[0][0].rows.drop(KIND_COLUMN)
    operators = [
        replace(temporal_join("left", None, True), changes=changes) for changes in (was, not was)
    ]
    half = Halfway(operators[0], [s for s, _ in (*left, *right)], random, 5)
    change = half.go_on(operators[1])
    assert change.outcome == "impossible"
    assert "its second input was" in change.detail


def test_a_changelog_goes_on_with_another_age() -> None:
    """The rows of one half have the versions that the other half began."""
    random = Random(3)
    rows = [{"k": 0, "a": n, "at": 10 * n} for n in range(1, 9)]
    table = [
        {"id": 0, "b": 1, "at": 5, "kind": RowKind.INSERT},
        {"id": 0, "b": 1, "at": 35, "kind": RowKind.DELETE},
        {"id": 0, "b": 2, "at": 65, "kind": RowKind.INSERT},
        {"id": 1, "b": 3, "at": 90, "kind": RowKind.INSERT},
    ]
    kinds = pl.Series(KIND_COLUMN, [row["kind"].value for row in table], dtype=pl.UInt8)
    right = split_of(1, table, RIGHT, 0)
    right.rows = right.rows.with_columns(kinds)
    half = Halfway(
        temporal_join("left", None, True), [split_of(0, rows, LEFT, 0), right], random, 0
    )
    change = half.go_on(temporal_join("left", 10**6, True))
    assert change.outcome != "impossible", change.detail
    made = sorted((row[1], row[2]) for row in half.play.outcome.rows())
    assert made == [(1, 1), (2, 1), (3, 1), (4, None), (5, None), (6, None), (7, 2), (8, 2)]


def test_a_delete_hides_a_version_that_came_long_before() -> None:
    """Also where the older versions are many, and the delete is not merged with them."""
    live = temporal_join("left", None, True).open(Tables())

    def take(port: int, rows: list[Row], kind: RowKind, until: int) -> list[tuple[Any, ...]]:
        frame = split_of(port, rows, LEFT if port == 0 else RIGHT, 0).rows
        if port == 1:
            frame = frame.with_columns(pl.lit(kind, pl.UInt8).alias(KIND_COLUMN))
        assert not list(live.process(port, frame))
        return [row for made in live.watermark(until) for row in made.select("k", "b").rows()]

    many = [{"id": n, "b": n, "at": n} for n in range(9)]
    assert take(1, many, RowKind.INSERT, 10) == []
    assert take(1, [{"id": 3, "b": 3, "at": 15}], RowKind.DELETE, 20) == []
    probes = [{"k": n, "a": n, "at": 25} for n in (2, 3)]
    assert take(0, probes, RowKind.INSERT, 30) == [(2, 2), (3, None)]
    assert take(1, [{"id": 3, "b": 7, "at": 35}], RowKind.UPDATE_AFTER, 40) == []
    assert take(0, [{"k": 3, "a": 3, "at": 45}], RowKind.INSERT, 50) == [(3, 7)]
    shown = [row for frame in operator_shown(live) for row in frame.rows()]
    assert sorted(shown) == [(n, 7 if n == 3 else n) for n in range(9)]


def operator_shown(live: Any) -> list[pl.DataFrame]:
    return [frame.select("id", "b") for frame in live._versions.all()]
