"""`sql`: one SELECT over inputs that end, checked before anything runs, and nothing else to reach."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from flows import failure, flow, inline, ordered, picture, refused, result_of, rows_of

from dataflare.model.types import Schema
from dataflare.operators import results
from dataflare.testing import check_processor
from dataflare.testing.build import processor_of

ORDERS = [{"id": 1, "customer": 7, "amount": 5}, {"id": 2, "customer": 8, "amount": 6}]
CUSTOMERS = [{"customer": 7, "name": "Ada"}, {"customer": 9, "name": "Bob"}]
STEP = "step: {{type: sql, inputs: [orders, customers], config: {{query: {query!r}}}}}"


def asked(query: str, **more: Any) -> Any:
    sources = {"orders": ORDERS, "customers": CUSTOMERS, **more}
    return result_of(STEP.format(query=query), **sources)


def test_a_query_knows_its_inputs_by_name():
    rows = asked("SELECT id, name FROM orders LEFT JOIN customers USING (customer) ORDER BY id")
    assert rows == [{"id": 1, "name": "Ada"}, {"id": 2, "name": None}]


def test_an_output_of_a_step_is_a_quoted_name():
    steps = (
        "parts: {type: route, inputs: [orders], config: {routes: {big: amount > 5}, default: small}}\n"
        "step: {type: sql, inputs: [parts.big, parts.small], "
        'config: {query: \'SELECT id FROM "parts.big" UNION ALL SELECT 10 * id FROM "parts.small"\'}}'
    )
    assert ordered(result_of(steps, orders=ORDERS)) == [{"id": 10}, {"id": 2}]


def test_what_the_expressions_of_steps_lack_is_there():
    query = (
        "SELECT id, sum(amount) OVER (ORDER BY id) AS total FROM orders, customers WHERE name > 'B'"
    )
    assert ordered(asked(query)) == [
        {"id": 1, "total": Decimal(5)},
        {"id": 2, "total": Decimal(11)},
    ]


def test_values_of_every_type_come_through():
    types = {
        "b": "bool", "u": "uint64", "f": "float32", "d": "decimal(20, 3)", "t": "string", "x": "binary",
        "day": "date", "at": "timestamp[us, UTC]", "n": "timestamp[ns]", "l": "list<int32>",
        "s": "struct<a: int64, b: string>", "h": "time",
    }  # fmt: skip
    row = {
        "b": True, "u": 2**64 - 1, "f": 0.5, "d": "1.500", "t": "ü", "x": "AQI=", "day": "2024-02-29",
        "at": "2024-02-29T12:00:00.000001Z", "n": "2024-02-29T12:00:00.000000001", "l": [1, None],
        "s": {"a": 1, "b": None}, "h": "23:59:59",
    }  # fmt: skip
    schema = ", ".join(f"{name}: '{type_}'" for name, type_ in types.items())
    everything = inline([row, dict.fromkeys(row)], schema=f"{{{schema}}}")
    step = "step: {type: sql, inputs: [all], config: {query: 'SELECT * FROM \"all\"'}}"
    plain = "step: {type: filter, inputs: [all], config: {condition: 'true'}}"
    assert result_of(step, all=everything) == result_of(plain, all=everything)


def test_a_variable_is_a_value_and_never_sql():
    text = (
        "step: {type: sql, inputs: [orders], config: {query: \"SELECT ${X:-1' OR 'a'='a} AS x, id "
        'FROM orders"}}'
    )
    assert rows_of(flow(text, orders=ORDERS))[0]["x"] == "1' OR 'a'='a"


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ("SELECT nosuch FROM orders", "E0201", '"nosuch" not found'),
        ("SELECT * FROM others", "E0201", "its inputs are orders: id, customer, amount"),
        ("SELECT id + name FROM orders, customers", "E0201", "not right"),
        ("DELETE FROM orders", "E0412", "starts with SELECT"),
        ("SELECT 1; DROP TABLE orders", "E0412", "one statement"),
        ("SELECT id, id FROM orders", "E0311", "'id' twice"),
        ("SELECT INTERVAL 1 DAY AS i", "E0204", "'i' of type INTERVAL"),
        ("SELECT * FROM read_text(''/etc/hostname'')", "E0201", "Cannot access file"),
        ("COPY orders TO ''/tmp/orders.csv''", "E0412", "starts with SELECT"),
    ],
)
def test_a_wrong_query_is_refused_before_anything_runs(query, code, words):
    step = STEP.replace("{query!r}", "'{query}'").format(query=query)
    shown = "\n".join(picture(step, orders=ORDERS, customers=CUSTOMERS))
    assert shown.startswith(f"error[{code}]")
    assert words in shown
    assert "^" in shown


def test_a_value_that_fails_names_the_step():
    error = failure(
        STEP.format(query="SELECT CAST(name AS int) AS n FROM customers, orders"),
        orders=ORDERS,
        customers=CUSTOMERS,
    )
    assert (error.code, error.step) == ("E0530", "step")
    assert "Ada" in error.message


def test_an_input_without_an_end_is_refused():
    block = refused(
        "step: {type: sql, inputs: [s], config: {query: SELECT n FROM s}}",
        s="{type: generate, config: {columns: {n: {sequence: 0}}}}",
    )
    assert block.startswith("error[E0316]: step 'step' runs its query over all rows")


@pytest.mark.parametrize("spilled", [False, True])
def test_the_step_keeps_the_laws_of_steps_with_state(spilled, monkeypatch):
    if spilled:
        monkeypatch.setattr(results, "_BYTES_IN_MEMORY", 0)
    query = "SELECT k, count(*) AS n, sum(a) AS s FROM input_0 JOIN input_1 USING (k) GROUP BY k"
    schemas = Schema.of({"k": "int64", "a": "int64"}), Schema.of({"k": "int64"})
    step = processor_of("sql", {"query": query}, *schemas)
    left = pl.DataFrame({"k": [i % 7 for i in range(40)], "a": range(40)})
    right = pl.DataFrame({"k": [i % 9 for i in range(30)]})
    asyncio.run(check_processor(step, left, right))
