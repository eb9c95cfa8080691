"""Steps on a changelog: right, or refused."""

from __future__ import annotations

import pytest
from flows import flow, inline, refused, result_of, rows_of

CHANGES = [
    {"_op": "insert", "id": 1, "n": 5, "t": "a"},
    {"_op": "update_before", "id": 1, "n": 5, "t": "a"},
    {"_op": "update_after", "id": 1, "n": 1, "t": "a"},
    {"_op": "update_before", "id": 1, "n": 1, "t": "a"},
    {"_op": "update_after", "id": 1, "n": 7, "t": "b"},
    {"_op": "update_before", "id": 1, "n": 7, "t": "b"},
    {"_op": "update_after", "id": 1, "n": 8, "t": "b"},
    {"_op": "delete", "id": 1, "n": 8, "t": "b"},
    {"_op": "insert", "id": 2, "n": 0, "t": "c"},
]
LOG = inline(CHANGES).replace(
    "{type: inline, config: {", "{type: inline, config: {changelog: columns, "
)


def changed(steps: str, **more: object) -> list[tuple[object, ...]]:
    made = result_of(steps, s=LOG, **more)
    return [(row["_op"], row["id"], row["n"]) for row in made]


def test_an_update_that_parts_at_a_filter_is_a_delete_or_an_insert():
    assert changed("step: {type: filter, inputs: [s], config: {condition: n > 3}}") == [
        ("insert", 1, 5),
        ("delete", 1, 5),
        ("insert", 1, 7),
        ("update_before", 1, 7),
        ("update_after", 1, 8),
        ("delete", 1, 8),
    ]


@pytest.mark.parametrize("optimise", [True, False])
def test_a_filter_behind_other_steps_does_the_same(optimise: bool):
    workflow = flow(
        "one: {type: map, inputs: [s], config: {derive: {m: n + 0, u: upper(t)}, rename: {n: k}}}\n"
        "two: {type: filter, inputs: [one], config: {condition: k > 3}}\n"
        "step: {type: map, inputs: [two], config: {rename: {k: n}}}",
        s=LOG,
    )
    made = rows_of(workflow, optimise=optimise)
    assert [row["_op"] for row in made] == [
        "insert", "delete", "insert", "update_before", "update_after", "delete",
    ]  # fmt: skip


def test_a_row_with_an_error_leaves_its_other_half_alone():
    made = changed(
        "step: {type: filter, inputs: [s], config: {condition: 10 % (n - 7) >= 0}, "
        "error_handling: {on_error: skip}}"
    )
    assert made[3:5] == [("delete", 1, 1), ("insert", 1, 8)]


def test_a_sample_by_key_parts_updates_like_a_filter():
    made = changed("step: {type: sample, inputs: [s], config: {fraction: 0.5, key: n}}")
    kinds = [kind for kind, _, _ in made]
    assert kinds.count("update_before") == kinds.count("update_after")
    balance: dict[tuple[object, object], int] = {}
    for kind, id_, n in made:
        sign = 1 if kind in ("insert", "update_after") else -1
        balance[id_, n] = balance.get((id_, n), 0) + sign
    assert set(balance.values()) <= {0, 1}


def test_a_lookup_keeps_the_kinds():
    made = result_of(
        "step: {type: lookup, inputs: [s], config: {source: u, mapping: {key: t}, on_many: first}}",
        s=LOG,
        u=[{"t": "a", "v": 1}],
    )
    assert [row["_op"] for row in made] == [row["_op"] for row in CHANGES]
    assert [row["v"] for row in made] == [1, 1, 1, 1, None, None, None, None, None]


def test_rows_that_join_a_changelog_are_inserts():
    made = result_of(
        "step: {type: union, inputs: [s, plain]}", s=LOG, plain=[{"id": 9, "n": 9, "t": "z"}]
    )
    assert {"_op": "insert", "id": 9, "n": 9, "t": "z"} in made
    assert len(made) == len(CHANGES) + 1


def test_joining_at_a_destination_does_the_same():
    workflow = flow(
        "one: {type: map, inputs: [s]}",
        outputs="one, plain",
        s=LOG,
        plain=[{"id": 9, "n": 9, "t": "z"}],
    )
    made = rows_of(workflow)
    assert [row["_op"] for row in made if row["id"] == 9] == ["insert"]
    assert len(made) == len(CHANGES) + 1


def test_unread_columns_of_a_joined_changelog_stay_away():
    made = result_of(
        "both: {type: union, inputs: [s, plain]}\n"
        "step: {type: map, inputs: [both], config: {select: [n]}}",
        s=LOG,
        plain=[{"n": 9, "x": 1}],
    )
    assert {"n": 9, "_op": "insert"} in made
    assert {tuple(row) for row in made} == {("n", "_op")}


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ("type: aggregate, inputs: [s], config: {measures: {k: count(*)}}", "cannot retract yet"),
        ("type: deduplicate, inputs: [s], config: {key: id}", "cannot retract yet"),
        ("type: limit, inputs: [s], config: {rows: 1}", "cannot retract yet"),
        ("type: route, inputs: [s], config: {routes: {a: n > 1}}", "two halves of an update"),
        ("type: sample, inputs: [s], config: {fraction: 0.5}", "cannot retract"),
        (
            "type: lookup, inputs: [s], config: {source: u, mapping: {key: t}, on_many: all}",
            "cannot retract",
        ),
        (
            "type: lookup, inputs: [s], config: {source: u, mapping: {key: t}, on_miss: drop}",
            "cannot retract",
        ),
        ("type: filter, inputs: [s], config: {condition: now() > now()}", "from call to call"),
        ("type: map, inputs: [s], config: {derive: {x: uuid()}}", "from call to call"),
        (
            "type: python, inputs: [s], config: {function: 'math:sqrt'}",
            "cannot retract",
        ),
    ],
)
def test_what_cannot_be_right_is_refused(step: str, reason: str):
    tables = {"u": [{"t": "a", "v": 1}]} if "source: u" in step else {}
    block = refused(
        f"step: {{{step}}}", s=LOG, outputs="step.a" if "route" in step else "step", **tables
    )
    header = block.splitlines()[0]
    assert header.startswith("error[E0315]: step 'step' receives a changelog")
    assert reason in header
    assert "flow.yaml:" in block
