"""Each step has the row kinds that reach it, and what would be wrong for them is refused with a way out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.errors import PlanError
from dataflare.model.batch import CHANGES, INSERTS, Kinds, RowKind
from dataflare.operators.primitives import after_parting
from dataflare.planner import check, plan
from dataflare.planner.changelog import row_kinds, shown_kinds
from dataflare.workflow import load_text

HEAD = """\
name: w
sources:
"""
SOURCES = {
    "changes": "{changelog: columns, rows: [{_op: insert, id: 1}, {_op: delete, id: 1}]}",
    "plain": "{rows: [{id: 7}]}",
}


def a_workflow(destination: str, steps: str = "", inputs: str = "changes"):
    sources = [
        f"  {name}: {{type: inline, config: {config}}}"
        for name, config in SOURCES.items()
        if name in steps + inputs
    ]
    blocks = [HEAD, *sources, "transformations:\n  " + steps if steps else ""]
    return load_text(
        "\n".join([*blocks, f"destinations:\n  out: {{inputs: [{inputs}], {destination}}}"])
    )


def kinds_of(steps: str, inputs: str) -> dict[str, Kinds]:
    return row_kinds(plan(a_workflow("type: memory", steps, inputs)).written)


def test_a_plan_shows_the_kinds_of_each_step():
    steps = "one: {type: map, inputs: [changes]}\n  two: {type: union, inputs: [one, plain]}"
    view = plan(a_workflow("type: memory", steps, "two")).view()
    shown = {node["id"]: node["row_kinds"] for node in view["nodes"]}
    all_kinds = ["insert", "update_before", "update_after", "delete"]
    assert shown == {
        "changes": all_kinds, "plain": ["insert"], "one": all_kinds, "two": all_kinds, "out": all_kinds,
    }  # fmt: skip
    notes = {node["id"]: node["notes"] for node in view["nodes"]}
    assert "a changelog: inserts, updates and deletes" in notes["out"]
    assert not any("changelog" in note for note in notes["plain"])


def test_inserts_stay_inserts_through_every_step():
    steps = (
        "a: {type: filter, inputs: [plain], config: {condition: id > 1}}\n"
        "  b: {type: deduplicate, inputs: [a], config: {key: id}}\n"
        "  c: {type: aggregate, inputs: [b], config: {group_by: [id], measures: {n: count(*)}}}"
    )
    assert set(kinds_of(steps, "c").values()) == {INSERTS}


@pytest.mark.parametrize(
    ("destination", "way_out"),
    [
        ("type: sqlite, config: {path: a.db, table: t, mode: append}", "mode: upsert or mirror"),
        ("type: duckdb, config: {path: a.db, table: t, mode: overwrite}", "changelog: columns"),
        ("type: file, config: {path: a.csv}", "a table of a database with mode: upsert"),
        ("type: http, config: {url: 'http://localhost:1/x'}", "a table of a database"),
    ],
)
def test_a_destination_of_inserts_is_refused_with_the_way_out(destination: str, way_out: str):
    with pytest.raises(PlanError) as caught:
        check(a_workflow(destination))
    assert (caught.value.code, caught.value.step) == ("E0315", "out")
    assert "inserts, updates and deletes" in caught.value.message
    assert way_out in (caught.value.help or "")
    assert caught.value.notes == ["the changelog comes from: changes"]


@pytest.mark.parametrize(
    "config", ["mode: upsert, key: [id]", "mode: mirror, key: [id]", "changelog: columns"]
)
def test_a_destination_that_takes_changes_is_planned(config: str):
    check(a_workflow(f"type: sqlite, config: {{path: a.db, table: t, {config}}}"))


def test_a_step_behind_the_wrong_one_is_not_the_one_that_is_named():
    steps = "a: {type: limit, inputs: [changes], config: {rows: 1}}\n  b: {type: map, inputs: [a]}"
    with pytest.raises(PlanError) as caught:
        check(a_workflow("type: memory", steps, "b"))
    assert caught.value.step == "a"


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("iud")), max_size=12))
@settings(max_examples=300, deadline=None)
def test_a_filter_makes_no_kind_that_it_does_not_declare(
    rows: list[tuple[bool, bool, str]],
) -> None:
    """rows: whether the first and the second half of a change pass a filter, and what it is."""
    arriving: set[RowKind] = set()
    leaving: set[RowKind] = set()
    for first, second, change in rows:
        before, after = RowKind.UPDATE_BEFORE, RowKind.UPDATE_AFTER
        if change == "u":
            arriving |= {before, after}
            if first and second:
                leaving |= {before, after}
            elif first or second:
                leaving |= {RowKind.DELETE if first else RowKind.INSERT}
            continue
        kind = RowKind.INSERT if change == "i" else RowKind.DELETE
        arriving |= {kind}
        leaving |= {kind} if first else set()
    assert leaving <= after_parting(frozenset(arriving))


def test_kinds_in_words():
    words: dict[str, Any] = {
        "inserts": INSERTS,
        "inserts, updates and deletes": CHANGES,
        "inserts and deletes": frozenset({RowKind.INSERT, RowKind.DELETE}),
        "inserts and updates": CHANGES - {RowKind.DELETE},
    }
    assert {shown_kinds(kinds): kinds for kinds in words.values()} == words
