"""A plan in Graphviz' DOT language. Stages are clusters.

Always true: names of steps are quoted, with quotes and backslashes escaped, and nodes are identified by
number, so that every plan gives a valid graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dataflare.planner.render.graph import DESTINATION, SOURCE, Edge, Graph, Step, graph_of

_SHAPES = {SOURCE: "cylinder", DESTINATION: "folder"}
_COLOURS = {SOURCE: "#2563eb", DESTINATION: "#0b8457"}


def render(view: Mapping[str, Any]) -> str:
    """The digraph of a plan's view, ending with a newline."""
    graph = graph_of(view)
    return "\n".join(_lines(graph)) + "\n"


def _lines(graph: Graph) -> Iterator[str]:
    number = {step.id: f"n{index}" for index, step in enumerate(graph.steps)}
    yield f"digraph {_quoted([graph.workflow])} {{"
    yield '  rankdir=LR; labelloc=t; fontname="sans-serif";'
    head = [f"{graph.workflow}: {graph.headline}", *graph.letter_lines]
    yield f"  label={_quoted(head)};"
    yield '  node [fontname="sans-serif", fontsize=11, margin="0.15,0.08"];'
    yield '  edge [fontname="sans-serif", fontsize=10, color="#7a889b"];'
    for index, stage in enumerate(graph.stages):
        merged = ", merged into the scan" if stage.merged else ""
        yield f"  subgraph cluster_{index} {{"
        yield f"    label={_quoted([f'stage {stage.id} ({stage.tasks}{merged})'])};"
        yield '    style="rounded,filled"; color="#dbe2ea"; fillcolor="#f5f7fa"; fontsize=10;'
        for step in stage.steps:
            yield f"    {number[step.id]} [{_looks(step)}];"
        yield "  }"
    for edge in graph.edges:
        yield f"  {number[edge.source]} -> {number[edge.target]}{_label(edge)};"
    yield "}"


def _looks(step: Step) -> str:
    words = [step.id, f"{step.type} {step.kind}".strip(), *step.notes]
    if step.level:
        words.append(step.level)
    shape = _SHAPES.get(step.kind, "box")
    colour = _COLOURS.get(step.kind, "#7c3aed")
    return f'label={_quoted(words)}, shape={shape}, style=filled, fillcolor=white, color="{colour}"'


def _label(edge: Edge) -> str:
    parts = [part for part in (edge.output, edge.exchange_text) if part]
    return f" [label={_quoted([' · '.join(parts)])}]" if parts else ""


def _quoted(lines: Iterable[str]) -> str:
    """A DOT string; a line break between the lines."""
    clean = (" ".join(line.split()).replace("\0", "") for line in lines)
    return '"' + "\\n".join(each.replace("\\", "\\\\").replace('"', '\\"') for each in clean) + '"'
