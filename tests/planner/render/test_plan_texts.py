"""Plans as text, Mermaid and DOT: small ones to the letter, any of them without a loss."""

from __future__ import annotations

import re
from typing import Any

import plan_views
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.planner.render import dot, mermaid, text
from dataflare.planner.render.graph import follow, graph_of
from dataflare.planner.render.measure import ELLIPSIS, fit, text_width

_PLAIN_NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)


def test_a_plan_reads_stage_by_stage() -> None:
    assert text.render(plan_views.LINEAR) == (
        "flights: batch · parallelism 2 · 3 stages · 4 steps\n"
        "\n"
        "stage 0 (2 tasks, merged into the scan)\n"
        "  ○ flights  file source\n"
        "  │   reads 8 of 19 columns\n"
        "  │\n"
        "  ◇ far      filter\n"
        "  │   filter distance > 100\n"
        "  ╰─▶ totals  (hash by carrier)\n"
        "\n"
        "stage 1 (2 tasks, reads stage 0)\n"
        "  ◇ totals  aggregate\n"
        "  │   group by carrier\n"
        "  ╰─▶ out  (rebalance)\n"
        "\n"
        "stage 2 (1 task, reads stage 1)\n"
        "  ● out  file destination\n"
        "\n"
        "delivery\n"
        "  out  exactly once  the source replays exactly\n"
        "\n"
        "optimised\n"
        "  push_projection  flights: 8 of 19 columns\n"
    )


def test_the_outputs_of_a_route_are_named_on_its_arrows() -> None:
    said = text.render(plan_views.ROUTES)
    assert "  ├─▶ eu_out  (output eu)\n" in said
    assert "  ╰─▶ us_out  (output us, hash by user_id)\n" in said
    assert 'n1 -->|"us · hash by user_id"| n3' in mermaid.render(plan_views.ROUTES)
    assert 'n1 -> n3 [label="us · hash by user_id"];' in dot.render(plan_views.ROUTES)


def test_long_notes_and_reasons_wrap_under_their_beginning() -> None:
    words = " ".join(f"word{number}" for number in range(40))
    nodes = [
        plan_views.node("rows", "source", "file", 0, words),
        plan_views.node("out", "destination", "file", 0),
    ]
    promised = {"out": {"level": "at least once", "reason": words}}
    view = plan_views.view("w", nodes, [plan_views.edge("rows", "out")], guarantees=promised)
    lines = text.render(view, width=60).splitlines()
    assert max(map(len, lines)) <= 60
    notes = [line for line in lines if line.startswith("  │   word")]
    assert " ".join(line[6:] for line in notes) == words
    start = lines.index("delivery") + 1
    assert lines[start].startswith("  out  at least once  word0")
    reason = [line[22:] for line in lines[start:]]
    assert all(line.startswith(" " * 22) for line in lines[start + 1 :])
    assert " ".join(reason) == words


def test_branches_inside_a_stage_are_told() -> None:
    said = text.render(plan_views.BRANCHES_INSIDE)
    assert "  ├─▶ b  (output us, same stage)\n" in said
    assert "  ╰─▶ both  (same stage)\n" in said


def test_stages_that_follow_each_other_in_a_ring_are_taken_apart() -> None:
    graph = graph_of(plan_views.STAGES_IN_A_RING)
    assert [stage.id for stage in graph.stages] == ["first", "aside", "last"]


def test_mermaid_to_the_letter() -> None:
    assert mermaid.render(plan_views.LINEAR) == (
        "---\n"
        'title: "flights: batch · parallelism 2 · 3 stages · 4 steps"\n'
        "---\n"
        "flowchart LR\n"
        '  subgraph s0 ["stage 0 (2 tasks, merged into the scan)"]\n'
        "    direction TB\n"
        '    n0[("flights<br/>file source<br/>reads 8 of 19 columns")]\n'
        '    n1["far<br/>filter transformation<br/>filter distance #62; 100"]\n'
        "  end\n"
        '  subgraph s1 ["stage 1 (2 tasks)"]\n'
        "    direction TB\n"
        '    n2["totals<br/>aggregate transformation<br/>group by carrier"]\n'
        "  end\n"
        '  subgraph s2 ["stage 2 (1 task)"]\n'
        "    direction TB\n"
        '    n3[/"out<br/>file destination<br/>exactly once"/]\n'
        "  end\n"
        "  n0 --> n1\n"
        '  n1 -->|"hash by carrier"| n2\n'
        '  n2 -->|"rebalance"| n3\n'
        "  classDef source stroke:#2563eb,stroke-width:2px\n"
        "  class n0 source\n"
        "  classDef transformation stroke:#7c3aed,stroke-width:2px\n"
        "  class n1,n2 transformation\n"
        "  classDef destination stroke:#0b8457,stroke-width:2px\n"
        "  class n3 destination\n"
    )


@settings(max_examples=50, deadline=None)
@given(plan_views.views(_PLAIN_NAMES))
def test_every_step_and_edge_is_in_the_text(view: dict[str, Any]) -> None:
    lines = text.render(view).splitlines()
    for node in view["nodes"]:
        assert any(re.match(rf"  [○◇●] {node['id']}(\s|$)", line) for line in lines)
    arrows = sum("─▶ " in line for line in lines if line.startswith(("  ├─▶", "  ╰─▶")))
    graph = graph_of(view)
    follows = {
        (a.id, b.id)
        for stage in graph.stages
        for a, b in zip(stage.steps, stage.steps[1:], strict=False)
    }
    down = sum((edge.source, edge.target) in follows for edge in graph.edges)
    assert arrows + down == len(view["edges"])


@settings(max_examples=50, deadline=None)
@given(plan_views.views())
def test_every_step_and_edge_is_in_mermaid_and_no_name_can_break_it(view: dict[str, Any]) -> None:
    lines = mermaid.render(view).splitlines()
    body = lines[lines.index("flowchart LR") + 1 :]
    nodes = [
        line
        for line in body
        if re.fullmatch(r"""    n\d+(\[\(|\[/|\[)"[^"]*"(\)\]|/\]|\])""", line)
    ]
    edges = [line for line in body if re.fullmatch(r"""  n\d+ -->(\|"[^"]*"\|)? n\d+""", line)]
    assert len(nodes) == len(view["nodes"])
    assert len(edges) == len(view["edges"])
    stages = len(graph_of(view).stages)
    ends = sum(line == "  end" for line in body)
    classes = sum(line.startswith(("  class ", "  classDef ")) for line in body)
    assert ends == stages
    assert len(body) == len(nodes) + len(edges) + 3 * stages + classes


@settings(max_examples=50, deadline=None)
@given(plan_views.views())
def test_every_step_and_edge_is_in_dot_and_no_name_can_break_it(view: dict[str, Any]) -> None:
    said = dot.render(view)
    without_strings = re.sub(r'"(?:[^"\\]|\\.)*"', "S", said)
    assert '"' not in without_strings
    assert len(re.findall(r"^    n\d+ \[label=S,", without_strings, re.M)) == len(view["nodes"])
    edges = re.findall(r"^  n\d+ -> n\d+(?: \[label=S\])?;$", without_strings, re.M)
    assert len(edges) == len(view["edges"])
    assert without_strings.count("{") == without_strings.count("}")


@given(st.text(max_size=200), st.floats(20, 300))
def test_a_fitted_text_is_no_wider_than_its_room(words: str, width: float) -> None:
    fitted = fit(words, 10.5, width)
    assert text_width(fitted, 10.5) <= width or fitted == ELLIPSIS
    assert fitted == " ".join(words.split()) or fitted.endswith(ELLIPSIS)


@pytest.mark.parametrize("links", [[("a", "b"), ("b", "a")], [("a", "a")]])
def test_what_is_on_a_cycle_has_no_order(links: list[tuple[str, str]]) -> None:
    assert follow(["a", "b", "c"], links) == ["c"] or follow(["a", "b", "c"], links) == ["b", "c"]
