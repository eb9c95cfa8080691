"""Each rule: what it does, and what it must leave alone."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from flows import failure, inline, ordered, plan_of, result_of

from dataflare.model.types import Schema
from dataflare.operators.base import RowOperator
from dataflare.operators.primitives import Derive, Filter, Select
from dataflare.planner import Plan
from dataflare.planner.graph import RowsNode, SourceNode
from dataflare.planner.rules.drop_unread import narrowed

ROWS = [{"a": 1, "b": "x", "c": 2.5}, {"a": 2, "b": "y", "c": None}]
TABLE = [{"a": 1, "v": "one"}]


def chain(plan: Plan, node: str = "step") -> list[str]:
    """The operators of a chain, as the plan shows them."""
    found = plan.graph.nodes[node]
    assert isinstance(found, RowsNode)
    return [operator.describe() for operator in found.operators]


def optimised(steps: str, **more: Any) -> Plan:
    return plan_of(steps, **{"s": ROWS, **more})


def effects(plan: Plan, rule: str) -> list[str]:
    return [each.effect for each in plan.graph.effects if each.rule == rule]


def read_columns(plan: Plan, source: str = "s") -> tuple[str, ...]:
    return plan.graph.nodes[source].schema.names


# -- fuse


def test_neighbours_become_one_chain():
    plan = optimised(
        "one: {type: map, inputs: [s], config: {derive: {d: a + 1}}}\n"
        "two: {type: filter, inputs: [one], config: {condition: d > 1}}\n"
        "step: {type: map, inputs: [two], config: {drop: [c]}}"
    )
    assert [node.id for node in plan.graph] == ["s", "step", "out"]
    assert chain(plan) == ["derive d", "filter d > 1", "select a, b, d"]
    assert [stage.steps for stage in plan.stages.stages] == [("s", "one", "two", "step"), ("out",)]


def test_a_step_that_two_others_read_stays_by_itself():
    plan = optimised(
        "one: {type: map, inputs: [s], config: {derive: {d: a + 1}}}\n"
        "two: {type: map, inputs: [one], config: {select: [d]}}\n"
        "step: {type: map, inputs: [one], config: {select: [a]}}",
        outputs={"out": "step", "more": "two"},
    )
    assert {"one", "two", "step"} <= set(plan.graph.nodes)


# -- move_filters


def test_a_filter_sinks_below_what_it_does_not_read():
    plan = optimised(
        "one: {type: map, inputs: [s], config: {derive: {u: upper(b)}}}\n"
        "step: {type: filter, inputs: [one], config: {condition: a > 1}}"
    )
    assert chain(plan) == ["filter a > 1", "derive u"]
    assert effects(plan, "move_filters") == ["step: filter a > 1 runs before one"]


def test_a_filter_follows_a_rename_back():
    steps = (
        "one: {type: map, inputs: [s], config: {rename: {a: b, b: a}}}\n"
        "step: {type: filter, inputs: [one], config: {condition: \"a = 'x' AND b = 1\"}}"
    )
    plan = optimised(steps)
    assert isinstance(plan.graph.nodes["step"], RowsNode)
    assert isinstance(plan.graph.nodes["step"].operators[0], Filter)
    assert plan.graph.nodes["step"].operators[0].reads == {"a", "b"}
    assert result_of(steps, s=ROWS) == [{"b": 1, "a": "x", "c": 2.5}]


def test_a_filter_sinks_below_a_lookup_that_changes_no_rows_or_drops_them():
    for miss in ("null", "drop"):
        plan = optimised(
            "one: {type: lookup, inputs: [s], config: {source: t, mapping: {key: a}, "
            f"on_many: first, on_miss: {miss}}}}}\n"
            "step: {type: filter, inputs: [one], config: {condition: \"b = 'x'\"}}",
            t=TABLE,
        )
        assert chain(plan)[0] == "filter b = 'x'"


STAYS = {
    "it reads what is derived": ("map", "derive: {d: upper(b)}", "d = 'X'"),
    "it reads what is replaced": ("map", "derive: {b: upper(b)}", "b = 'X'"),
    "what it would pass can fail": ("map", "derive: {d: 1 % a}", "b = 'x'"),
    "a cast it would pass can fail": ("map", "cast: {b: int64}", "a > 1"),
    "it can fail itself": ("map", "derive: {u: upper(b)}", "1 % a = 0"),
    "it follows the clock": ("map", "derive: {u: upper(b)}", "now() > now()"),
    "a row may be several": ("explode", "column: l", "a > 1"),
    "it reads what is looked up": (
        "lookup",
        "source: t, mapping: {key: a}, on_many: first",
        "v = 'one'",
    ),
    "a lookup it would pass can fail": ("lookup", "source: t, mapping: {key: a}", "b = 'x'"),
    "a lookup multiplies": ("lookup", "source: t, mapping: {key: a}, on_many: all", "b = 'x'"),
    "rows are drawn by what they are": ("sample", "fraction: 0.5", "a > 1"),
}


@pytest.mark.parametrize("reason", STAYS)
def test_a_filter_stays_where(reason: str):
    type_, config, condition = STAYS[reason]
    plan = plan_of(
        f"one: {{type: {type_}, inputs: [s], config: {{{config}}}}}\n"
        f'step: {{type: filter, inputs: [one], config: {{condition: "{condition}"}}}}',
        s=[{"a": 1, "b": "x", "l": [1, 2]}],
        **({"t": TABLE} if type_ == "lookup" else {}),
    )
    assert chain(plan)[-1] == f"filter {condition}"
    assert effects(plan, "move_filters") == []


# -- drop_unread


def test_only_what_is_read_is_made_and_read():
    plan = optimised(
        "one: {type: map, inputs: [s], config: {derive: {d: a + 1, e: c * 2}}}\n"
        "step: {type: map, inputs: [one], config: {select: [d]}}"
    )
    assert chain(plan) == ["derive d", "select d"]
    assert read_columns(plan) == ("a",)
    assert effects(plan, "drop_unread") == ["step: e"]
    assert effects(plan, "push_projection") == ["s: reads 1 of 3 columns"]


def test_rows_are_counted_though_no_column_is_read():
    steps = (
        "one: {type: map, inputs: [s], config: {derive: {k: 7, now: now()}}}\n"
        "step: {type: aggregate, inputs: [one], config: {measures: {n: count(*), k: min(k)}}}"
    )
    assert len(read_columns(optimised(steps))) == 1
    assert result_of(steps, s=ROWS) == [{"n": 2, "k": 7}]


def test_a_chain_keeps_at_least_a_column():
    schema = Schema.of({"a": "int64", "b": "string"})
    select = Select("step", (("a", "a"), ("b", "b")))
    operators, required, _ = narrowed((select,), set(), schema)
    assert operators == (Select("step", (("a", "a"),)),)
    assert required == {"a"}


def test_a_lookup_nobody_reads_goes_unless_it_decides_about_rows():
    def left(config: str) -> list[str]:
        plan = optimised(
            f"one: {{type: lookup, inputs: [s], config: {{source: t, mapping: {{key: a}}, {config}}}}}\n"
            "step: {type: map, inputs: [one], config: {select: [b]}}",
            t=TABLE,
        )
        return [text.split()[0] for text in chain(plan)]

    assert left("on_many: first") == ["select"]
    for deciding in ("on_many: fail", "on_many: all", "on_many: first, on_miss: drop"):
        assert left(deciding) == ["look", "select"]


def test_what_a_branch_asks_about_is_read_though_nobody_gets_it():
    steps = (
        "one: {type: route, inputs: [s], config: {routes: {low: a < 2}, default: high}}\n"
        "step: {type: map, inputs: [one.low], config: {select: [b]}}\n"
        "more: {type: map, inputs: [one.high], config: {select: [b]}}"
    )
    outputs = {"out": "step", "more_out": "more"}
    plan = optimised(steps, outputs=outputs)
    assert read_columns(plan) == ("a", "b")
    assert plan.graph.nodes["one"].outputs["low"].names == ("b",)
    assert result_of(steps, s=ROWS, outputs=outputs) == [[{"b": "x"}], [{"b": "y"}]]


@pytest.mark.parametrize(
    ("type_", "config", "kept"),
    [
        ("explode", "column: l", ("a", "l")),
        ("flatten", "columns: [w]", ("a",)),
        ("parse", "column: b, schema: {x: int64}", ("a", "b")),
        ("sample", "fraction: 0.5, key: b", ("a", "b")),
        ("deduplicate", "key: b", ("a", "b")),
        ("limit", "rows: 3", ("a",)),
        ("validate", "rules: [{name: r, expect: b <> ''}]", ("a", "b")),
    ],
)
def test_every_step_says_what_it_needs(type_: str, config: str, kept: tuple[str, ...]):
    plan = plan_of(
        f"one: {{type: {type_}, inputs: [s], config: {{{config}}}}}\n"
        "step: {type: map, inputs: [one], config: {select: [a]}}",
        s=[{"a": 1, "b": "{}", "l": [1], "w": {"x": 1}}],
    )
    assert read_columns(plan) == kept


# -- push_filters, push_projection


@pytest.fixture
def database(tmp_path: Path) -> str:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, n INTEGER, t TEXT)")
        connection.executemany(
            "INSERT INTO orders (n, t) VALUES (?, ?)", [(1, "x"), (2, "y"), (3, "y"), (None, "y")]
        )
    connection.close()
    return f"{{type: sqlite, config: {{path: {path}, table: orders}}}}"


def pushed(plan: Plan) -> tuple[str, ...]:
    source = plan.graph.nodes["s"]
    assert isinstance(source, SourceNode)
    return source.pushed_filters


def test_a_source_takes_conditions_of_its_own_language(database: str):
    steps = "step: {type: filter, inputs: [s], config: {condition: n > 1}}"
    plan = optimised(steps, s=database)
    assert pushed(plan) == ("n > 1",)
    assert "step" not in plan.graph.nodes
    assert {node["id"] for node in plan.view()["nodes"]} == {"s", "step", "out"}
    assert [row["n"] for row in ordered(result_of(steps, s=database))] == [2, 3]


def test_what_the_source_does_not_take_stays_a_filter(database: str):
    steps = "step: {type: filter, inputs: [s], config: {condition: \"n > 1 AND upper(t) = 'Y' AND n < 3\"}}"
    plan = optimised(steps, s=database)
    assert pushed(plan)
    assert len(chain(plan)) == 1
    assert [row["n"] for row in result_of(steps, s=database)] == [2]


def test_each_part_that_the_source_does_not_take_stays_a_filter(database: str):
    condition = "upper(t) >= 'X' AND n > 1 AND upper(t) < 'Y'"
    steps = f'step: {{type: filter, inputs: [s], config: {{condition: "{condition}"}}}}'
    plan = optimised(steps, s=database)
    assert pushed(plan)
    assert len(chain(plan)) == 2
    assert result_of(steps, s=database) == []


def test_a_filter_reaches_the_source_through_renames_and_derived_columns(database: str):
    steps = (
        "one: {type: map, inputs: [s], config: {derive: {u: upper(t)}, rename: {n: number}}}\n"
        "step: {type: filter, inputs: [one], config: {condition: number = 3}}"
    )
    assert pushed(optimised(steps, s=database)) == ("number = 3",)
    assert [row["number"] for row in result_of(steps, s=database)] == [3]


@pytest.mark.parametrize("condition", ["6 % n = 0", "now() > now()"])
def test_what_can_fail_or_follows_the_clock_is_not_pushed(database: str, condition: str):
    plan = optimised(
        f'step: {{type: filter, inputs: [s], config: {{condition: "{condition}"}}}}', s=database
    )
    assert pushed(plan) == ()


@pytest.mark.parametrize("condition", ["6 % (n - 1) = 0 AND n > 1", "n > 1 AND 6 % (n - 1) = 0"])
def test_no_half_of_a_condition_that_can_fail_is_pushed(database: str, condition: str):
    """The source would leave out the row whose error must be told."""
    steps = f'step: {{type: filter, inputs: [s], config: {{condition: "{condition}"}}}}'
    assert pushed(optimised(steps, s=database)) == ()
    if condition.startswith("6"):
        assert failure(steps, s=database).code == "E0519"
    else:
        assert [row["n"] for row in ordered(result_of(steps, s=database))] == [2, 3]


def test_a_source_that_two_steps_read_gives_all_its_rows(database: str):
    plan = optimised(
        "step: {type: filter, inputs: [s], config: {condition: n > 1}}\n"
        "more: {type: filter, inputs: [s], config: {condition: n < 2}}",
        s=database,
        outputs={"out": "step", "other": "more"},
    )
    assert pushed(plan) == ()


def test_a_source_leaves_unread_what_nobody_reads(database: str):
    plan = optimised("step: {type: map, inputs: [s], config: {select: [t]}}", s=database)
    assert read_columns(plan) == ("t",)
    assert "reads 1 of 3 columns" in plan.view()["nodes"][0]["notes"]


def test_a_source_that_reads_all_is_followed_by_a_select():
    from dataflare.connectors import memory
    from dataflare.connectors.memory import MemorySource
    from dataflare.sdk.source import SupportsProjection

    assert not issubclass(MemorySource, SupportsProjection)
    import polars as pl

    memory.put("given", pl.DataFrame(ROWS))
    plan = optimised(
        "step: {type: map, inputs: [s], config: {select: [b]}}",
        s="{type: memory, config: {name: given}}",
    )
    assert chain(plan, "s/columns") == ["select b"]
    memory.clear()


def test_operators_say_what_they_do():
    kinds: list[type[RowOperator]] = [Derive, Filter, Select]
    plan = optimised(
        "step: {type: map, inputs: [s], config: {derive: {d: a}, rename: {b: e}}}",
        s=inline(ROWS),
    )
    node = plan.graph.nodes["step"]
    assert isinstance(node, RowsNode)
    assert all(isinstance(operator, tuple(kinds)) for operator in node.operators)
    assert chain(plan) == ["derive d", "select a, e = b, c, d"]
