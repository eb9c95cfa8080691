"""`union`: the rows of several inputs, brought to one schema."""

from __future__ import annotations

import pytest
from flows import inline, ordered, plan_of, refused, result_of

from dataflare.errors import PlanError
from dataflare.model.types import parse_type
from dataflare.operators.union import wider

BOTH = "step: {type: union, inputs: [s, t]}"


def test_missing_columns_are_null():
    made = result_of(BOTH, s=[{"a": 1, "b": "x"}], t=[{"c": 2.5, "a": 3}])
    assert ordered(made) == [{"a": 1, "b": "x", "c": None}, {"a": 3, "b": None, "c": 2.5}]


def test_an_input_may_stand_twice():
    made = result_of("step: {type: union, inputs: [s, s]}", s=[{"a": 1}, {"a": 2}])
    assert ordered(made) == [{"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}]


def test_columns_of_another_order_find_their_place():
    made = result_of(BOTH, s=[{"a": 1, "b": 2}], t=[{"b": 3, "a": 4}])
    assert [list(row.items()) for row in ordered(made)] == [
        [("a", 1), ("b", 2)],
        [("a", 4), ("b", 3)],
    ]


@pytest.mark.parametrize(
    ("left", "right", "both"),
    [
        ("int8", "int64", "int64"),
        ("uint8", "uint32", "uint32"),
        ("uint32", "int8", "int64"),
        ("uint64", "int64", "decimal(20, 0)"),
        ("int32", "float32", "float64"),
        ("float32", "float64", "float64"),
        ("decimal(10, 2)", "decimal(12, 4)", "decimal(12, 4)"),
        ("decimal(10, 2)", "int64", "decimal(21, 2)"),
        ("decimal(10, 2)", "float64", "float64"),
        ("timestamp[ms]", "timestamp[us]", "timestamp[us]"),
        ("timestamp[s, UTC]", "timestamp[ms, Europe/Berlin]", "timestamp[ms, Europe/Berlin]"),
        ("json", "string", "string"),
        ("null", "list<int64>", "list<int64>"),
    ],
)
def test_types_widen_to_what_holds_both(left: str, right: str, both: str):
    for one, other in ((left, right), (right, left)):
        assert str(wider(parse_type(one), parse_type(other), "c", "step")) == both


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("int64", "string"),
        ("timestamp[us]", "timestamp[us, UTC]"),
        ("decimal(38, 0)", "decimal(38, 10)"),
        ("list<int64>", "list<string>"),
        ("bool", "int8"),
    ],
)
def test_types_that_nothing_holds_are_refused(left: str, right: str):
    with pytest.raises(PlanError) as caught:
        wider(parse_type(left), parse_type(right), "c", "step")
    assert caught.value.code == "E0312"


def test_the_greatest_numbers_of_both_survive():
    made = result_of(
        BOTH,
        s=inline([{"n": 2**64 - 1}], schema="{n: uint64}"),
        t=inline([{"n": -(2**63)}], schema="{n: int64}"),
    )
    assert sorted(int(row["n"]) for row in made) == [-(2**63), 2**64 - 1]


def test_inputs_that_cannot_be_joined_are_named():
    block = refused(BOTH, s=[{"a": 1}], t=[{"a": "x"}])
    assert block == (
        "error[E0312]: step 'step' cannot join the column 'a' of types int64 and string\n"
        " --> flow.yaml:7:16\n"
        "  |\n"
        "7 |   step: {type: union, inputs: [s, t]}\n"
        "  |                ^^^^^\n"
        "   = help: cast it in a map before the union: cast: {a: string}"
    )


def test_a_strict_union_widens_nothing():
    strict = "step: {type: union, inputs: [s, t], config: {strict: true}}"
    assert result_of(strict, s=[{"a": 1}], t=[{"a": 2}]) == [{"a": 1}, {"a": 2}]
    assert refused(strict, s=[{"a": 1}], t=[{"b": 2}]).startswith("error[E0312]")


def test_columns_nobody_reads_stay_away():
    plan = plan_of(
        f"{BOTH.replace('step', 'both')}\nstep: {{type: map, inputs: [both], config: {{select: [b]}}}}",
        s=[{"a": 1, "b": 2}],
        t=[{"b": 3, "c": 4}],
    )
    read = {node.id: node.schema.names for node in plan.graph if node.id in ("s", "t", "both")}
    assert read == {"s": ("b",), "t": ("b",), "both": ("b",)}
