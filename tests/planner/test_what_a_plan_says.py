"""A plan says what was found, where each destination writes, and what it takes away there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dataflare.errors import ExpressionError
from dataflare.planner import plan
from dataflare.planner.render import dot, mermaid, svg, text
from dataflare.planner.written_as import whole_results
from dataflare.testing import source_of
from dataflare.workflow.load import load_text

FLOW = """\
name: told
settings: {parallelism: 1, error_handling: {on_error: dead_letter}}
sources:
  rows: {type: file, config: {path: in.csv}}
  few: {type: inline, config: {rows: [{a: 1, n: x}]}}
transformations:
  big: {type: filter, inputs: [rows], config: {condition: "a > 0"}}
  named: {type: lookup, inputs: [big], config: {source: few, mapping: {key: a, remote_key: a, fields: [n]}}}
  sums: {type: aggregate, inputs: [named], config: {group_by: [n], measures: {c: "count(*)"}}}
destinations:
  all: {type: sqlite, inputs: [named], config: {path: x.db, table: t, mode: upsert, key: [a]}}
  totals: {type: file, inputs: [sums], config: {path: totals.csv}}
"""


@pytest.fixture
def view(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "in.csv").write_text("a,b\n1,x\n")
    return plan(load_text(FLOW, base=tmp_path), home=tmp_path / "home").view()


def node(view: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in view["nodes"] if each["id"] == name)


def test_a_destination_says_place_mode_and_key(view: dict[str, Any], tmp_path: Path) -> None:
    table, file = node(view, "all"), node(view, "totals")
    assert table["place"] == f"the table t in {tmp_path / 'x.db'}"
    assert (table["mode"], table["key"]) == ("upsert", ["a"])
    assert table["deletes"].startswith("nothing")
    assert file["place"] == str(tmp_path / "totals.csv")
    assert file["mode"] == "overwrite"
    assert file["deletes"].startswith("everything")


def test_dead_letters_have_a_place_and_their_steps(view: dict[str, Any], tmp_path: Path) -> None:
    (letters,) = view["dead_letters"]
    assert letters["place"] == str(tmp_path / "home" / "told" / "dead_letters")
    assert {"rows", "big", "named", "sums", "all", "totals"} == set(letters["steps"])
    assert node(view, "big")["on_error"] == "dead_letter"


def test_stages_name_those_that_send_them_rows(view: dict[str, Any]) -> None:
    stages = {stage["name"]: stage for stage in view["stages"]}
    assert stages["rows"]["reads"] == []
    assert stages["rows"]["id"] in stages["sums"]["reads"]
    assert stages["totals"]["reads"] == [stages["sums"]["id"]]


def test_each_way_to_show_it_says_the_same(view: dict[str, Any]) -> None:
    drawn = {
        "text": text.render(view),
        "mermaid": mermaid.render(view),
        "dot": dot.render(view),
        "svg": svg.render(view),
    }
    for kind, shown in drawn.items():
        for said in ("columns: a int64, b string", "mode upsert by a", "deletes everything"):
            assert said in shown, (kind, said)
        assert "merged into the scan" in shown, kind
        assert "dead_letters" in shown, kind
        assert "x.db" in shown, kind


@pytest.mark.parametrize(
    ("source", "step", "merged"),
    [
        ('file, config: {path: "in.csv"}', 'filter, inputs: [s], config: {condition: "a > 0"}', True),
        ('file, config: {path: "in.csv"}', 'route, inputs: [s], config: {routes: {x: "a > 0"}}', True),
        ('file, config: {path: "in.csv"}', "aggregate, inputs: [s], config: {group_by: [a], measures: {c: 'count(*)'}}", False),
        ("inline, config: {rows: [{a: 1}]}", 'filter, inputs: [s], config: {condition: "a > 0"}', False),
        ('sqlite, config: {path: x.db, table: t}', 'map, inputs: [s], config: {derive: {c: "md5(a)"}}', True),
    ],
)  # fmt: skip
def test_what_is_merged_into_the_scan(source: str, step: str, merged: bool, tmp_path: Path) -> None:
    import sqlite3

    (tmp_path / "in.csv").write_text("a,b\n1,x\n")
    with sqlite3.connect(tmp_path / "x.db") as base:
        base.execute("create table t (a text primary key)")
    reads = "k.x" if step.startswith("route") else "k"
    flow = f"""\
name: w
sources: {{s: {{type: {source}}}}}
transformations: {{k: {{type: {step}}}}}
destinations: {{d: {{type: blackhole, inputs: [{reads}]}}}}
"""
    view = plan(load_text(flow, base=tmp_path)).view()
    assert view["stages"][0]["merged_into_scan"] is merged


@pytest.mark.parametrize(
    ("type_", "config", "advice"),
    [
        ("kafka", {"bootstrap_servers": "h:1", "topic": "t", "stop": "latest"}, "no stop"),
        ("file", {"path": "a.csv", "new_only": True}, "no new_only), or let one run go on (watch)"),
        ("sqlite", {"path": "a.db", "table": "t"}, "no incremental"),
    ],
)
def test_whole_results_are_advised_by_options_that_the_source_has(
    type_: str, config: dict[str, Any], advice: str
) -> None:
    source = source_of(type_, config)
    told = whole_results(source)
    assert advice in told
    for name in ("new_only", "incremental", "watch", "stop"):
        assert name in type(source.config).model_fields or name not in told


@pytest.mark.parametrize(("schema", "notes"), [("", 1), (", schema: {id: int64, a: string}", 0)])
def test_a_type_of_a_sample_is_told_where_it_does_not_fit(
    schema: str, notes: int, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("id,a\n1,none\n2,5\n")
    flow = f"""\
name: sampled
sources:
  rows: {{type: file, config: {{path: in.csv}}{schema}}}
transformations:
  named: {{type: map, inputs: [rows], config: {{derive: {{n: id}}}}}}
  big: {{type: filter, inputs: [named], config: {{condition: "a > 5"}}}}
destinations:
  out: {{type: stdout, inputs: [big]}}
"""
    with pytest.raises(ExpressionError) as caught:
        plan(load_text(flow, base=tmp_path))
    told = [note for note in caught.value.notes if "'rows' come from a sample" in note]
    assert len(told) == notes
