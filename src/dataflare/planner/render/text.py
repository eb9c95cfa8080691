"""A plan as text for a terminal or a log: stage by stage, each step under the one it follows.

A bar at the left connects the steps of a stage. Where rows leave it, an arrow names their target step
and the exchange.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from dataflare.planner.render.graph import DESTINATION, SOURCE, Edge, Graph, Stage, Step, graph_of

_NARROWEST = 30
_BEGINNING = re.compile(r"  [│ ]   |  \S+ +\w+(?: \w+)? once +|  \S+ +")
"""The beginning of a note, of a guarantee, or of another line with a name."""

MARKS = {SOURCE: "○", DESTINATION: "●"}
"""The mark before a step. Transformations have a lozenge."""


def render(view: Mapping[str, Any], width: int | None = None) -> str:
    """The text of a plan's view, ending with a newline. width: longer lines are wrapped."""
    graph = graph_of(view)
    lines = [f"{graph.workflow}: {graph.headline}"]
    for stage in graph.stages:
        lines += ["", *_stage(stage, graph)]
    commits = f", committed {graph.commits}" if graph.commits else ""
    lines += _section(f"delivery{commits}", list(_promises(graph)))
    lines += _section("dead letters", [_line(each) for each in _letters(graph)])
    lines += _section("optimised", _pairs(graph.rules))
    if width is not None:
        lines = [piece for line in lines for piece in _wrapped(line, width)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _wrapped(line: str, width: int) -> list[str]:
    """A long line in pieces that are indented under its beginning. The bar at the left continues."""
    start = _BEGINNING.match(line)
    if len(line) <= width or start is None:
        return [line]
    prefix = start.group()
    more = "".join(char if char in "│" else " " for char in prefix)
    room = max(width - len(prefix), _NARROWEST)
    pieces = textwrap.wrap(line[len(prefix) :], room, break_long_words=False)
    return [f"{more if place else prefix}{piece}" for place, piece in enumerate(pieces)]


def _stage(stage: Stage, graph: Graph) -> Iterator[str]:
    merged = ", merged into the scan" if stage.merged else ""
    reads = f", reads stage {' and '.join(stage.reads)}" if stage.reads else ""
    yield f"stage {stage.id} ({stage.tasks}{merged}{reads})"
    names = [step.id for step in stage.steps]
    across = max(map(len, names))
    for index, step in enumerate(stage.steps):
        below = names[index + 1] if index + 1 < len(names) else None
        leaving = [edge for edge in graph.edges if edge.source == step.id]
        on = [edge for edge in leaving if edge.target == below]
        others = [edge for edge in leaving if edge.target != below]
        yield f"  {MARKS.get(step.kind, '◇')} {_line(step.id):<{across}}  {_line(_kind(step))}"
        bar = "│" if on or others else " "
        for note in step.notes:
            yield f"  {bar}   {_line(note)}"
        for place, edge in enumerate(others):
            last = place == len(others) - 1 and not on
            yield f"  {'╰' if last else '├'}─▶ {_arrow(edge, names)}"
        for edge in on:
            yield f"  │{f'   output {edge.output}' if edge.output else ''}"


def _kind(step: Step) -> str:
    """The kind of a step: the type alone for a transformation, with the kind for source and destination."""
    if step.kind in (SOURCE, DESTINATION):
        return f"{step.type} {step.kind}".strip()
    return step.type or step.kind


def _arrow(edge: Edge, neighbours: list[str]) -> str:
    facts = [f"output {edge.output}" if edge.output else "", edge.exchange_text]
    if edge.target in neighbours:
        facts.append("same stage")
    facts_text = ", ".join(filter(None, facts))
    return _line(edge.target) + (f"  ({_line(facts_text)})" if facts_text else "")


def _promises(graph: Graph) -> Iterator[str]:
    promised = [step for step in graph.steps if step.level]
    name = max((len(step.id) for step in promised), default=0)
    level = max((len(step.level or "") for step in promised), default=0)
    for step in promised:
        yield f"{_line(step.id):<{name}}  {step.level or '':<{level}}  {_line(step.reason)}"


def _letters(graph: Graph) -> Iterator[str]:
    across = max((len(", ".join(steps)) for _, steps in graph.letters), default=0)
    for place, steps in graph.letters:
        yield f"{', '.join(steps):<{across}}  go to {place}"


def _pairs(pairs: tuple[tuple[str, str], ...]) -> list[str]:
    across = max((len(first) for first, _ in pairs), default=0)
    return [f"{_line(first):<{across}}  {_line(second)}" for first, second in pairs]


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", title, *(f"  {line}" for line in lines)] if lines else []


def _line(text: str) -> str:
    """The text in one line."""
    return " ".join(text.split())
