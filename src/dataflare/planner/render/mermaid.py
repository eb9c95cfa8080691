"""A plan as a Mermaid flowchart, for Markdown that draws it. Stages are subgraphs.

Names of steps are used in labels only. A node is identified by its number, so that a name cannot be
read as syntax.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dataflare.planner.render.graph import DESTINATION, SOURCE, Edge, Graph, Step, graph_of

_SHAPES = {SOURCE: ("[(", ")]"), DESTINATION: ("[/", "/]")}
_COLOURS = {SOURCE: "#2563eb", "transformation": "#7c3aed", DESTINATION: "#0b8457"}


def render(view: Mapping[str, Any]) -> str:
    """The flowchart of a plan's view, ending with a newline."""
    graph = graph_of(view)
    return "\n".join(_lines(graph)) + "\n"


def _lines(graph: Graph) -> Iterator[str]:
    number = {step.id: f"n{index}" for index, step in enumerate(graph.steps)}
    yield "---"
    yield f'title: "{_yaml(f"{graph.workflow}: {graph.headline}")}"'
    yield "---"
    yield "flowchart LR"
    for index, stage in enumerate(graph.stages):
        merged = ", merged into the scan" if stage.merged else ""
        yield f'  subgraph s{index} ["{_label([f"stage {stage.id} ({stage.tasks}{merged})"])}"]'
        yield "    direction TB"
        for step in stage.steps:
            opened, closed = _SHAPES.get(step.kind, ("[", "]"))
            yield f'    {number[step.id]}{opened}"{_label(_words(step))}"{closed}'
        yield "  end"
    for index, line in enumerate(graph.letter_lines):
        yield f'  letters{index}>"{_label([line])}"]'
    for edge in graph.edges:
        yield f"  {number[edge.source]} {_arrow(edge)} {number[edge.target]}"
    for kind, colour in _COLOURS.items():
        members = [number[step.id] for step in graph.steps if step.kind == kind]
        if members:
            yield f"  classDef {kind} stroke:{colour},stroke-width:2px"
            yield f"  class {','.join(members)} {kind}"


def _words(step: Step) -> Iterator[str]:
    yield step.id
    yield f"{step.type} {step.kind}".strip()
    yield from step.notes
    if step.level:
        yield step.level


def _arrow(edge: Edge) -> str:
    parts = [part for part in (edge.output, edge.exchange_text) if part]
    return f'-->|"{_label([" · ".join(parts)])}"|' if parts else "-->"


def _label(lines: Iterable[str]) -> str:
    """The text of a quoted label, in which only entities and line breaks have a meaning."""
    return "<br/>".join(_entities(" ".join(line.split())) for line in lines)


def _entities(text: str) -> str:
    """Encode all characters except letters, digits and safe marks as Mermaid's numeric entities."""
    return "".join(
        char if char.isalnum() or char in " _-.,:()=/+*·" else f"#{ord(char)};" for char in text
    )


def _yaml(text: str) -> str:
    printable = "".join(char if char.isprintable() else " " for char in text)
    return printable.replace("\\", "\\\\").replace('"', '\\"')
