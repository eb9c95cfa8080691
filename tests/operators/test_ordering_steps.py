"""`sort`, and `deduplicate` that keeps the last row or goes by an order: as a plain model has it, at any
parallelism, and the same after a crash at any point."""

from __future__ import annotations

import itertools
import random
from typing import Any

import polars as pl
import pytest
from flows import refused, result_of
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.operators.base import StatefulOperator
from dataflare.operators.deduplicate import Best
from dataflare.operators.ordering import Order
from dataflare.operators.sort import Sort
from dataflare.state.tables import Tables
from dataflare.testing.processors import InMemory

Row = dict[str, Any]
ROWS: list[Row] = [
    {"k": random.Random(n).choice(["a", "b", "c", None]), "v": random.Random(-n).choice([1, 2, 3, None]), "n": n}
    for n in range(200)
]  # fmt: skip


def step(text: str, parallelism: int = 2, rows: list[Row] = ROWS) -> list[Row]:
    return result_of(f"step: {{{text}}}", s=rows, settings=f"{{parallelism: {parallelism}}}")


def key(value: int | None, *, descending: bool = False, nulls_last: bool = True) -> tuple[int, int]:
    if value is None:
        return (1 if nulls_last else -1, 0)
    return (0, -value if descending else value)


@pytest.mark.parametrize("parallelism", [1, 2, 3, 4])
def test_rows_are_sorted_by_several_columns_and_equal_ones_keep_their_order(
    parallelism: int,
) -> None:
    by = "[{column: v, descending: true, nulls: first}, k]"
    made = step(f"type: sort, inputs: [s], config: {{by: {by}}}", parallelism)
    ranks = {"a": 1, "b": 2, "c": 3, None: 9}
    expected = sorted(
        ROWS, key=lambda r: (key(r["v"], descending=True, nulls_last=False), ranks[r["k"]])
    )
    assert [(r["v"], r["k"]) for r in made] == [(r["v"], r["k"]) for r in expected]
    assert sorted(r["n"] for r in made) == list(range(200))


@pytest.mark.parametrize("parallelism", [1, 2, 3, 4])
def test_the_last_row_of_each_key_stays(parallelism: int) -> None:
    made = step(
        "type: deduplicate, inputs: [s], config: {key: k, keep: last, order_by: n}", parallelism
    )
    last = {row["k"]: row for row in ROWS}
    assert sorted(made, key=str) == sorted(last.values(), key=str)


@pytest.mark.parametrize(
    ("keep", "order_by", "best"),
    [
        ("first", "n", lambda r: r["n"]),
        ("first", "{column: n, descending: true}", lambda r: -r["n"]),
        ("last", "[v, n]", lambda r: (-(r["v"] or 0), -r["n"])),
        ("first", "[v, n]", lambda r: (r["v"] or 9, r["n"])),
    ],
)
def test_an_order_says_which_row_stays_and_null_is_never_preferred(
    keep: str, order_by: str, best: Any
) -> None:
    made = step(
        f"type: deduplicate, inputs: [s], config: {{key: k, keep: {keep}, order_by: {order_by}}}"
    )
    expected = [min((r for r in ROWS if r["k"] == k), key=best) for k in ("a", "b", "c", None)]
    assert sorted(made, key=str) == sorted(expected, key=str)


ENDLESS = "{type: generate, config: {columns: {n: {sequence: 0}, v: {sequence: 0}}}}"


@pytest.mark.parametrize(
    ("text", "code", "s"),
    [
        ("type: sort, inputs: [s], config: {by: n}", "E0316", ENDLESS),
        ("type: deduplicate, inputs: [s], config: {key: n, keep: last}", "E0316", ENDLESS),
        ("type: deduplicate, inputs: [s], config: {key: n, order_by: v}", "E0316", ENDLESS),
        ("type: sort, inputs: [s], config: {by: x}", "E0203", ROWS),
        ("type: sort, inputs: [s], config: {by: []}", "E0405", ROWS),
        ("type: sort, inputs: [s], config: {by: [n, n]}", "E0311", ROWS),
        ("type: sort, inputs: [s], config: {by: l}", "E0204", [{"l": [1]}]),
    ],
)
def test_what_cannot_be_ordered_is_refused(text: str, code: str, s: Any) -> None:
    assert f"error[{code}]" in refused(f"step: {{{text}}}", s=s)


ORDER = Order(("v", "n"), (True, False), (True, True))
OPERATORS = {
    "sort": Sort("step", ORDER, 10**9),
    "last": Best("step", ("k",), True, None),
    "greatest": Best("step", ("k",), False, ORDER),
}


def frames() -> list[pl.DataFrame]:
    frame = pl.DataFrame(ROWS, schema={"k": pl.String, "v": pl.Int64, "n": pl.Int64})
    return [frame[at : at + 23] for at in range(0, 200, 23)]


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("crash_after", [0, 1, 5, 9, 10, 11, 12])
def test_a_crash_at_any_point_gives_each_row_once(
    name: str, crash_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine batches, then shares of the result: the state of one point goes into a new operator."""
    for module in ("sort", "deduplicate"):
        monkeypatch.setattr(f"dataflare.operators.{module}._SLICE_ROWS", 2)
    operator: StatefulOperator = OPERATORS[name]
    whole = run(operator, None)
    assert run(operator, crash_after) == whole


def run(operator: StatefulOperator, crash_after: int | None) -> list[Row]:
    tables, out, batches = Tables(storage=InMemory()), [], frames()
    live, results = operator.open(tables), None
    for at in itertools.count():
        if at == crash_after:
            share = tables.store(tables.freeze())
            tables = Tables(storage=InMemory(), shares=[share])
            live, results = operator.open(tables), None
        if at < len(batches):
            out += list(live.process(0, batches[at]))
            continue
        results = iter(live.end(0)) if results is None else results
        rows = next(results, None)
        if rows is None:
            break
        out.append(rows)
    return pl.concat(out).to_dicts()


class Counting(InMemory):
    """A storage that counts what is written."""

    def __init__(self) -> None:
        self.writes = 0

    def write(self, frame: pl.DataFrame, key_groups: Any) -> Any:
        self.writes += 1
        return super().write(frame, key_groups)


VALUES = st.none() | st.integers(-3, 3)
DRAWN = st.lists(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=30), max_size=8)
ORDERS = st.sampled_from(
    [
        Order(("a",), (False,), (True,)),
        Order(("a", "b"), (True, False), (False, True)),
        Order(("b",), (True,), (True,)),
    ]
)


@given(DRAWN, ORDERS, st.integers(1, 2_000), st.integers(0, 12))
@settings(derandomize=True, deadline=None, max_examples=150)
def test_rows_beyond_memory_are_sorted_as_all_at_once_also_over_a_crash(
    batches: list[list[Any]], order: Order, bytes_max: int, crash_after: int
) -> None:
    operator, storage = Sort("step", order, bytes_max), Counting()
    schema = {"a": pl.Int64, "b": pl.Int64, "n": pl.Int64}
    numbers = itertools.count()
    frames = [
        pl.DataFrame([(*row, next(numbers)) for row in rows], schema=schema, orient="row")
        for rows in batches
    ]
    tables = Tables(storage=storage)
    live = operator.open(tables)
    for frame in frames:
        list(live.process(0, frame))
        assert tables.num_bytes() <= bytes_max or not storage.writes
    out: list[pl.DataFrame] = []
    for place, rows in enumerate(live.end(0)):
        out.append(rows)
        if place == crash_after:
            share = tables.store(tables.freeze())
            out += operator.open(Tables(storage=storage, shares=[share])).end(0)
            break
    expected = order.sorted(pl.concat(frames)) if frames else pl.DataFrame(schema=schema)
    assert pl.concat(out or [expected.clear()]).equals(expected)


def test_a_sort_beyond_its_memory_takes_files() -> None:
    operator, storage = Sort("step", ORDER, 1_000), Counting()
    tables = Tables(storage=storage)
    live = operator.open(tables)
    for frame in frames():
        list(live.process(0, frame))
    assert storage.writes > 0
    assert tables.num_bytes() <= 1_000
    rows = pl.concat(list(live.end(0)))
    assert rows.equals(ORDER.sorted(pl.concat(frames())))


def test_a_sort_that_is_begun_again_cuts_nothing_again() -> None:
    operator, storage = Sort("step", ORDER, 1_000), Counting()
    tables = Tables(storage=storage)
    live = operator.open(tables)
    for frame in frames():
        list(live.process(0, frame))
    results = iter(live.end(0))
    while not (first := next(results)).height:
        continue
    share = tables.store(tables.freeze())
    writes = storage.writes
    again = Tables(storage=storage, shares=[share])
    rest = list(operator.open(again).end(0))
    assert storage.writes == writes
    assert pl.concat([first, *rest]).equals(ORDER.sorted(pl.concat(frames())))
