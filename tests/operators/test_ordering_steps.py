"""`sort`, and `deduplicate` that keeps the last row or goes by an order: as a plain model has it, at any
parallelism, and the same after a crash at any point."""

from __future__ import annotations

import itertools
import random
from typing import Any

import polars as pl
import pytest
from flows import refused, result_of

from dataflare.errors import DataError
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


def test_more_rows_than_it_may_hold_is_an_error_with_the_bound() -> None:
    live = Sort("step", ORDER, 1_000).open(Tables())
    with pytest.raises(DataError) as caught:
        live.process(0, pl.concat(frames()))
    assert caught.value.code == "E0548"
    assert "1,000" in caught.value.message
