"""Which columns a column comes from: by examples, and by a law: a column of a source that changes a column of a
destination when its values change is one of its origins."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dataflare.jobs.preview import preview
from dataflare.planner import plan
from dataflare.planner.column_lineage import Origins, column_lineage
from dataflare.workflow.load import load_text

ORDERS = [
    {
        "id": 1,
        "customer": 1,
        "amount": 10.0,
        "note": "a",
        "country": "DE",
        "at": "2026-01-01T00:00:00Z",
    },
    {
        "id": 2,
        "customer": 2,
        "amount": 20.0,
        "note": "b",
        "country": "FR",
        "at": "2026-01-02T00:00:00Z",
    },
    {
        "id": 3,
        "customer": 1,
        "amount": 30.0,
        "note": "c",
        "country": "DE",
        "at": "2026-01-01T05:00:00Z",
    },
    {
        "id": 4,
        "customer": 3,
        "amount": 5.0,
        "note": "d",
        "country": "US",
        "at": "2026-01-04T00:00:00Z",
    },
]
CUSTOMERS = [
    {"id": 1, "name": "x", "tier": 1},
    {"id": 2, "name": "y", "tier": 2},
    {"id": 4, "name": "z", "tier": 2},
]
OTHER = {
    "id": [3, 1, 7, 2],
    "customer": [2, 4, 4, 1],
    "amount": [1.0, 99.0, 7.0, 55.0],
    "note": ["q", "r", "q", "s"],
    "country": ["US", "DE", "DE", "FR"],
    "at": [f"2026-01-0{day}T00:00:00Z" for day in (9, 8, 7, 6)],
}
OTHER_CUSTOMERS = {"id": [2, 9, 1], "name": ["k", "l", "m"], "tier": [3, 1, 1]}

TYPES = "{id: int64, customer: int64, amount: float64, note: string, country: string, at: 'timestamp[us, UTC]'}"
WORKFLOW = """\
name: w
sources:
  orders: {type: inline, schema: TYPES, event_time: {column: at}, config: {rows: ORDERS}}
  customers: {type: inline, config: {rows: CUSTOMERS}}
transformations:
STEPS
destinations:
  out: {type: blackhole, inputs: [last]}
"""
STEPS = {
    "map": "  last: {type: map, inputs: [orders], config: {derive: {double: amount * 2, who: upper(note)}, drop: [country]}}",
    "filter": "  last: {type: filter, inputs: [orders], config: {condition: \"amount > 8 AND country <> 'FR'\"}}",
    "rejected": "  f: {type: filter, inputs: [orders], config: {condition: amount > 8}}\n"
    "  last: {type: map, inputs: [f.rejected], config: {derive: {x: id + 1}}}",
    "select": "  last: {type: map, inputs: [orders], config: {rename: {amount: total}, select: [total, id]}}",
    "aggregate": "  last: {type: aggregate, inputs: [orders], config: {group_by: [country],"
    " measures: {n: count(*), total: sum(amount), most: max(id) + sum(customer)}}}",
    "join": "  last: {type: join, inputs: [orders, customers], config: {kind: inner, 'on': {customer: id}}}",
    "full": "  last: {type: join, inputs: [orders, customers], config: {kind: full, 'on': {customer: id}}}",
    "lookup": "  last: {type: lookup, inputs: [orders], config: {source: customers,"
    " mapping: {key: customer, remote_key: id, fields: [name]}}}",
    "deduplicate": "  last: {type: deduplicate, inputs: [orders], config: {key: [country], keep: last, order_by: amount}}",
    "newest": "  last: {type: deduplicate, inputs: [orders], config: {key: [country], keep: last}}",
    "best": "  last: {type: deduplicate, inputs: [orders], config: {key: [country], order_by: amount}}",
    "changes": "  h: {type: history, inputs: [orders], config: {key: [id], time: at}}\n"
    "  last: {type: deduplicate, inputs: [h], config: {key: [country], keep: last, order_by: amount}}",
    "history": "  last: {type: history, inputs: [orders], config: {key: [id], time: at}}",
    "within": "  last: {type: deduplicate, inputs: [orders], config: {key: [country], within: 1d}}",
    "narrow_within": "  m: {type: map, inputs: [orders], config: {select: [id, country]}}\n"
    "  last: {type: deduplicate, inputs: [m], config: {key: [country], within: 1d}}",
    "top": "  s: {type: sort, inputs: [orders], config: {by: [amount]}}\n"
    "  last: {type: limit, inputs: [s], config: {rows: 2}}",
    "union": "  a: {type: map, inputs: [orders], config: {derive: {v: amount}, select: [id, v]}}\n"
    "  b: {type: map, inputs: [customers], config: {derive: {v: cast(tier as float64)}, select: [id, v]}}\n"
    "  last: {type: union, inputs: [a, b]}",
    "sql": "  last: {type: sql, inputs: [orders], config: {query: 'select country, sum(amount) as s from orders group by 1'}}",
    "sort": "  last: {type: sort, inputs: [orders], config: {by: [amount]}}",
    "parse": "  m: {type: map, inputs: [orders], config: {derive: {doc: \"'{\\\"k\\\": ' || cast(id as string) || '}'\"}}}\n"
    "  last: {type: parse, inputs: [m], config: {column: doc, format: json, schema: {k: int64}}}",
    "route": "  r: {type: route, inputs: [orders], config: {routes: {eu: \"country in ('DE', 'FR')\"}}}\n"
    "  last: {type: map, inputs: [r.eu], config: {derive: {x: amount}}}",
}


def text_of(kind: str, orders: list[dict[str, Any]], customers: list[dict[str, Any]]) -> str:
    text = WORKFLOW.replace("STEPS", STEPS[kind])
    text = (
        text.replace("TYPES", TYPES)
        .replace("ORDERS", repr(orders))
        .replace("CUSTOMERS", repr(customers))
    )
    if "customers" not in STEPS[kind]:
        text = "\n".join(line for line in text.splitlines() if not line.startswith("  customers:"))
    return text


def lineage_of(kind: str, folder: Path) -> dict[str, Origins]:
    loaded = load_text(text_of(kind, ORDERS, CUSTOMERS), base=folder)
    return column_lineage(plan(loaded).written)["out"]


def result(kind: str, folder: Path, orders: Any, customers: Any) -> pl.DataFrame:
    rows = preview(load_text(text_of(kind, orders, customers), base=folder), "out", 100)
    return rows.drop("_op", strict=False)


def changed(rows: list[dict[str, Any]], column: str, values: list[Any]) -> list[dict[str, Any]]:
    return [{**row, column: value} for row, value in zip(rows, values, strict=True)]


@pytest.mark.parametrize("kind", STEPS)
def test_what_changes_a_column_is_one_of_its_origins(kind: str, tmp_path: Path) -> None:
    known = lineage_of(kind, tmp_path)
    before = result(kind, tmp_path, ORDERS, CUSTOMERS)
    assert set(known) == set(before.columns)
    assert before.height
    tries = [("orders", name, changed(ORDERS, name, OTHER[name]), CUSTOMERS) for name in OTHER]
    if "customers" in STEPS[kind]:
        tries += [
            ("customers", name, ORDERS, changed(CUSTOMERS, name, OTHER_CUSTOMERS[name]))
            for name in OTHER_CUSTOMERS
        ]
    moved = 0
    for step, name, orders, customers in tries:
        after = result(kind, tmp_path, orders, customers)
        for column in before.columns:
            if before[column].sort().to_list() != after[column].sort().to_list():
                moved += 1
                origins = known[column]
                assert (step, name) in origins.values | origins.conditions, (step, name, column)
    assert moved


def test_rows_of_a_join_that_have_no_match_and_lookups_that_drop_rows(tmp_path: Path) -> None:
    full = lineage_of("full", tmp_path)
    assert ("customers", "id") in full["customer"].values
    STEPS["inner"] = STEPS["lookup"].replace("fields: [name]}", "fields: [name]}, on_miss: drop")
    assert ("customers", "id") in lineage_of("inner", tmp_path)["note"].conditions


def names(origins: Origins) -> tuple[list[str], list[str]]:
    return (
        sorted(f"{step}.{name}" for step, name in origins.values),
        sorted(f"{step}.{name}" for step, name in origins.conditions),
    )


def test_values_and_conditions_are_told_apart(tmp_path: Path) -> None:
    found = {
        (kind, column): names(origins)
        for kind in (
            "filter",
            "aggregate",
            "join",
            "map",
            "select",
            "newest",
            "best",
            "changes",
            "within",
        )
        for column, origins in lineage_of(kind, tmp_path).items()
    }
    by = ["orders.amount", "orders.country"]
    assert found["filter", "note"] == (["orders.note"], by)
    assert found["newest", "note"] == (["orders.note"], ["orders.country"])
    assert found["best", "note"] == (["orders.note"], by)
    assert found["within", "note"] == (["orders.note"], ["orders.at", "orders.country"])
    assert found["changes", "note"][0] == ["orders.note"]
    assert found["aggregate", "n"] == ([], ["orders.country"])
    assert found["aggregate", "total"] == (["orders.amount"], ["orders.country"])
    assert found["aggregate", "most"] == (["orders.customer", "orders.id"], ["orders.country"])
    assert found["join", "tier"] == (["customers.tier"], ["customers.id", "orders.customer"])
    assert found["map", "double"] == (["orders.amount"], [])
    assert found["select", "total"] == (["orders.amount"], [])
    assert not set(itertools.chain.from_iterable(found["map", "who"])) - {"orders.note"}


@pytest.mark.parametrize(("more", "time"), [("", None), (", sequence: at", "at")])
def test_the_columns_of_a_history_have_a_time_or_come_from_none(more: str, time: str | None, tmp_path: Path):  # fmt: skip
    text = """\
name: h
sources: {rows: {type: inline, config: {rows: [{id: 1, name: a, at: "2026-01-01T00:00:00Z"}]}, schema: {id: int64, name: string, at: "timestamp[us, UTC]"}}}
destinations: {out: {type: sqlite, inputs: [rows], config: {path: o.db, table: t, mode: history, key: [id]MORE}}}
"""
    found = column_lineage(plan(load_text(text.replace("MORE", more), base=tmp_path)).written)
    values = {name: {column for _, column in o.values} for name, o in found["out"].items()}
    of_time = set() if time is None else {time}
    assert values == {
        **{name: {name} for name in ("id", "name", "at")},
        "valid_from": of_time,
        "valid_to": of_time,
        "is_current": set(),
    }
