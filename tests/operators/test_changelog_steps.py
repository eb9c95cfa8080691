"""Steps on a changelog: right, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from flows import ended, flow, inline, refused, result_of, rows_of

from dataflare.errors import PlanError
from dataflare.planner import plan
from dataflare.workflow.load import load_text

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
        ("type: limit, inputs: [s], config: {rows: 1}", "the others are gone"),
        ("type: route, inputs: [s], config: {routes: {a: now() > now()}}", "from call to call"),
        ("type: sample, inputs: [s], config: {fraction: 0.5}", "cannot retract"),
        ("type: filter, inputs: [s], config: {condition: now() > now()}", "from call to call"),
        ("type: map, inputs: [s], config: {derive: {x: uuid()}}", "from call to call"),
        (
            "type: python, inputs: [s], config: {function: 'math:sqrt'}",
            "cannot retract",
        ),
    ],
)
def test_what_cannot_be_right_is_refused(step: str, reason: str):
    block = refused(f"step: {{{step}}}", s=LOG, outputs="step.a" if "route" in step else "step")
    header = block.splitlines()[0]
    assert header.startswith("error[E0315]: step 'step' receives a changelog")
    assert reason in header
    assert "flow.yaml:" in block


def what_is_left(made: list[dict[str, object]]) -> list[dict[str, object]]:
    """The rows that are there after these changes. None is taken back that was not there."""
    there: list[dict[str, object]] = []
    for row in made:
        kind = row.pop("_op")
        there.remove(row) if kind in ("delete", "update_before") else there.append(row)
    return there


def test_a_branch_sends_each_half_of_an_update_where_its_row_is() -> None:
    many, few, rest = result_of(
        "step: {type: route, inputs: [s], config: {routes: {many: n > 5, few: n > 0}, default: rest}}",
        outputs={"a": "step.many", "b": "step.few", "c": "step.rest"},
        s=LOG,
    )
    assert [row["_op"] for row in many] == ["insert", "update_before", "update_after", "delete"]
    assert [row["_op"] for row in few] == ["insert", "update_before", "update_after", "delete"]
    assert (what_is_left(many), what_is_left(few)) == ([], [])
    assert what_is_left(rest) == [{"id": 2, "n": 0, "t": "c"}]


def test_rules_take_back_the_rows_that_broke_them() -> None:
    good, failed = result_of(
        "step: {type: validate, inputs: [s], config: {rules: [{name: big, expect: n > 3}]}}",
        outputs={"a": "step", "b": "step.failed"},
        s=LOG,
    )
    assert what_is_left(good) == []
    assert what_is_left(failed) == [{"id": 2, "n": 0, "t": "c", "failed_rules": ["big"]}]


def test_the_items_of_a_list_are_taken_back_with_it() -> None:
    rows = [
        {"_op": "insert", "id": 1, "items": ["a", "b"]},
        {"_op": "update_before", "id": 1, "items": ["a", "b"]},
        {"_op": "update_after", "id": 1, "items": ["b"]},
    ]
    log = inline(rows, schema="{id: int64, items: list<string>}")
    log = log.replace("{type: inline, config: {", "{type: inline, config: {changelog: columns, ")
    made = result_of("step: {type: explode, inputs: [s], config: {column: items}}", s=log)
    assert [row["_op"] for row in made] == ["insert", "insert", "delete", "delete", "insert"]
    assert what_is_left(made) == [{"id": 1, "items": "b"}]


@pytest.mark.parametrize("how", ["on_many: all", "on_many: first, on_miss: drop"])
def test_a_lookup_takes_back_what_it_joined(how: str) -> None:
    made = result_of(
        f"step: {{type: lookup, inputs: [s], config: {{source: u, mapping: {{key: t}}, {how}}}}}",
        s=LOG,
        u=[{"t": "a", "v": 1}, {"t": "a", "v": 2}, {"t": "c", "v": 3}],
    )
    assert what_is_left(made) == [{"id": 2, "n": 0, "t": "c", "v": 3}]


def test_a_function_that_is_pure_takes_back_what_it_gave(tmp_path: Path) -> None:
    (tmp_path / "halves.py").write_text(
        "def both(row):\n    return [dict(row, n=row['n'] * side) for side in (1, 10)]\n"
    )
    config = "function: 'halves:both', mode: record, pure: true"
    steps = f"step: {{type: python, inputs: [s], config: {{{config}}}}}"
    made = rows_of(flow(steps, s=LOG, base=tmp_path))
    assert what_is_left(made) == [{"id": 2, "n": 0, "t": "c"}] * 2


@pytest.mark.parametrize(
    "behind",
    [
        "type: aggregate, inputs: [named], config: {group_by: [v], measures: {n: count(*)}}",
        "type: deduplicate, inputs: [named], config: {key: v}",
    ],
)
def test_rows_that_a_lookup_changed_are_not_found_again(behind: str) -> None:
    lookup = "named: {type: lookup, inputs: [s], config: {source: u, mapping: {key: t}}}"
    block = refused(f"{lookup}\nstep: {{{behind}}}", s=LOG, u=[{"t": "a", "v": 1}])
    assert block.startswith("error[E0315]: step 'step' takes rows back by their values")
    assert "the lookup 'named' may find other values" in block
    assert "a step of type join" in block


def test_a_lookup_behind_a_step_that_keeps_rows_is_fine() -> None:
    steps = (
        "sums: {type: aggregate, inputs: [s], config: {group_by: [t], measures: {n: sum(n)}, emit: updates}}\n"
        "step: {type: lookup, inputs: [sums], config: {source: u, mapping: {key: t}}}"
    )
    made = result_of(steps, s=LOG, u=[{"t": "c", "v": 1}])
    assert what_is_left(made) == [{"t": "c", "n": 0, "v": 1}]


@pytest.mark.parametrize(("source", "is_told"), [(inline(CHANGES), True), (LOG, False)])
def test_kinds_that_are_not_read_as_such_are_told(
    source: str, is_told: bool, tmp_path: Path
) -> None:
    text = (
        f"name: m\nsources: {{s: {source}}}\ndestinations: {{t: {{type: sqlite, inputs: [s], "
        f"config: {{path: {tmp_path}/o.db, table: t, mode: mirror, key: [id]}}}}}}\n"
    )
    told = [each for each in ended(load_text(text, file="m.yaml")).warnings if "'_op'" in each]
    assert len(told) == is_told
    assert all("changelog: columns" in each for each in told)


def test_a_file_that_mirrors_takes_no_changelog_and_a_database_does() -> None:
    text = (
        f"name: m\nsources: {{s: {LOG}}}\ndestinations: {{t: {{type: file, inputs: [s], "
        "config: {path: o.csv, mode: mirror, key: [id]}}}\n"
    )
    with pytest.raises(PlanError, match="type file in mode mirror does not take") as caught:
        plan(load_text(text, file="m.yaml"))
    assert "a table of a database with mode: mirror" in str(caught.value.help)
