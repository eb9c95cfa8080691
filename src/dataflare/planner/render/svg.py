"""A plan as a self-contained SVG, readable on light and dark backgrounds, without scripts and fonts.

Each stage is a card and its steps are boxes from top to bottom. Rows go from left to right along edges
that name their exchange. The tooltip of a step shows its schema and all of its notes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from dataflare.planner.render import cards
from dataflare.planner.render.arrange import LABEL, LABEL_HEIGHT, Drawing, Route, arrange
from dataflare.planner.render.cards import BADGE, HEAD, NAME, NOTE, PAD, TYPE, Card, Lane, StepBox
from dataflare.planner.render.graph import Edge, Graph, Step, graph_of
from dataflare.planner.render.measure import fit, text_width
from dataflare.planner.render.style import ICONS, LEVELS, style_sheet

_MARGIN, _TITLE_HEIGHT = 28.0, 62.0
_TITLE, _SUBTITLE, _SUBTITLE_LINE = 17.0, 11.0, 16.0
_ARROW = 7.0
_NARROWEST = 360.0
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(view: Mapping[str, Any]) -> str:
    """The drawing of a plan's view: an XML document that ends with a newline."""
    graph = graph_of(view)
    drawing = arrange(graph)
    across = max(drawing.width, _NARROWEST)
    title = _TITLE_HEIGHT + _SUBTITLE_LINE * len(graph.letter_lines)
    width, height = across + 2 * _MARGIN, drawing.height + title + 2 * _MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(width)}" height="{_n(height)}"'
        f' viewBox="0 0 {_n(width)} {_n(height)}" role="img">',
        _title(f"plan of {graph.workflow}"),
        f"<style>\n{style_sheet()}</style>",
        f'<rect class="page" width="{_n(width)}" height="{_n(height)}"/>',
        *_heading(graph, across),
        f'<g transform="translate({_n(_MARGIN)} {_n(_MARGIN + title)})">',
        *_inside(drawing),
        "</g>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _heading(graph: Graph, across: float) -> Iterator[str]:
    name = fit(graph.workflow, _TITLE, across, bold=True)
    facts = fit(graph.headline, _SUBTITLE, across)
    yield _text(_MARGIN, _MARGIN + _TITLE, name, _TITLE, "ink strong")
    yield _text(_MARGIN, _MARGIN + _TITLE + 20, facts, _SUBTITLE, "faint")
    for index, line in enumerate(graph.letter_lines, 1):
        y = _MARGIN + _TITLE + 20 + _SUBTITLE_LINE * index
        yield "<g>" + _title(line)
        yield _text(_MARGIN, y, fit(line, _SUBTITLE, across), _SUBTITLE, "faint") + "</g>"


def _inside(drawing: Drawing) -> Iterator[str]:
    """The elements in drawing order: cards, edges, steps, labels."""
    for card, x, y in drawing.cards:
        yield from _card(card, x, y)
    for route in drawing.routes:
        yield from _route(route)
    for card, x, y in drawing.cards:
        for lane in card.lanes:
            yield from _lane(lane, x, y)
        for box in card.steps:
            yield from _step(box, x + box.x, y + box.y)
    for route in drawing.routes:
        yield from _label(route)


# Cards and steps


def _card(card: Card, x: float, y: float) -> Iterator[str]:
    yield f'<g class="stage" data-stage={_attribute(card.stage.id)}>'
    yield _rect(x, y, card.width, card.height, 10, "card")
    yield _text(x + PAD, y + 20, card.head, HEAD, "faint strong")
    yield _text(x + card.width - PAD, y + 20, card.tasks, HEAD, "faint", "end")
    yield "</g>"


def _step(box: StepBox, x: float, y: float) -> Iterator[str]:
    step = box.step
    kind = step.kind if step.kind in ICONS else "transformation"
    yield f'<g class="step" data-step={_attribute(step.id)}>'
    yield _title(_tooltip(step))
    yield _rect(x, y, box.width, box.height, 7, "box")
    yield _rect(x, y + 9, 3, box.height - 18, 1.5, f"bar-{kind}")
    yield (
        f'<path class="icon icon-{kind}" transform="translate({_n(x + 12)} {_n(y + 11)})"'
        f' d="{ICONS[kind]}"/>'
    )
    left = x + 12 + cards.ICON
    yield _text(left, y + 21, box.name, NAME, "ink strong")
    yield _text(left, y + 35, box.type, TYPE, "faint")
    for index, note in enumerate(box.notes):
        yield _text(x + 12, y + cards.note_baseline(index), note, NOTE, "faint")
    if box.badge:
        yield from _badge(box, x + 12, y + box.height - 27)
    yield "</g>"


def _badge(box: StepBox, x: float, y: float) -> Iterator[str]:
    level = LEVELS.get(box.step.level or "", "least")
    text = box.badge or ""
    yield _rect(x, y, text_width(text, BADGE, bold=True) + 28, 18, 9, f"badge-{level}")
    sign = "M0 4.2l2.6 2.6L8 1.2" if level in ("exactly", "effectively") else "M4 .5v4.5M4 7.4v.1"
    yield (
        f'<path class="icon mark-{level}" transform="translate({_n(x + 9)} {_n(y + 5)})" d="{sign}"/>'
    )
    yield _text(x + 21, y + 12.8, text, BADGE, f"text-{level} strong")


def _tooltip(step: Step) -> str:
    lines = [f"{step.id}: {step.type} {step.kind}", *step.notes]
    if step.level:
        lines.append(f"{step.level}: {step.reason}" if step.reason else step.level)
    if step.schema:
        lines.append("")
        lines.extend(f"{name}: {type_}" for name, type_ in step.schema.items())
    return "\n".join(lines)


# Edges


def _route(route: Route) -> Iterator[str]:
    """An edge: level along boxes and labels, an S curve between the columns."""
    points = route.points
    (x, y), *later_points = points
    commands = [f"M{_n(x)} {_n(y)}"]
    for index, (to_x, to_y) in enumerate(later_points):
        if index % 2 == 0 or abs(to_y - y) < 0.05:
            commands.append(f"H{_n(to_x)}")
        else:
            bend = (x + to_x) / 2
            commands.append(f"C{_n(bend)} {_n(y)} {_n(bend)} {_n(to_y)} {_n(to_x)} {_n(to_y)}")
        x, y = to_x, to_y
    commands[-1] = f"H{_n(x - _ARROW)}"
    head = f"M{_n(x)} {_n(y)}l{_n(-_ARROW - 1)} -4v8z"
    yield from _edge(route.edge, " ".join(commands), head)


def _lane(lane: Lane, x: float, y: float) -> Iterator[str]:
    """An edge inside a card: straight down to the next box, or around through the gutter."""
    source, target = lane.source, lane.target
    if not lane.lane:
        middle = x + source.x + source.width / 2
        top, end = y + source.bottom, y + target.y
        way = f"M{_n(middle)} {_n(top)}V{_n(end - _ARROW)}"
        yield from _edge(lane.edge, way, f"M{_n(middle)} {_n(end)}l-4 {_n(-_ARROW - 1)}h8z")
        if lane.label:
            yield _text(middle + 9, top + 16, lane.label, NOTE, "faint")
        return
    left = x + source.x - cards.LANE * lane.lane
    start, end = y + source.bottom - 12, y + target.y + 12
    edge_x = x + source.x
    way = (
        f"M{_n(edge_x)} {_n(start)}H{_n(left + 5)}q-5 0 -5 5V{_n(end - 5)}q0 5 5 5"
        f"H{_n(edge_x - _ARROW)}"
    )
    yield from _edge(lane.edge, way, f"M{_n(edge_x)} {_n(end)}l{_n(-_ARROW - 1)} -4v8z")
    if lane.label:
        yield _text(edge_x + 4, y + target.y - 7, lane.label, NOTE, "faint")


def _edge(edge: Edge, way: str, head: str) -> Iterator[str]:
    title = f"{edge.origin} to {edge.target}: {edge.exchange_text or edge.exchange}"
    yield f"<g data-from={_attribute(edge.origin)} data-to={_attribute(edge.target)}>{_title(title)}"
    yield f'<path class="edge" d="{way}"/><path class="head" d="{head}"/></g>'


def _label(route: Route) -> Iterator[str]:
    if not route.label:
        return
    x, y = route.label_at
    left, top = x - route.label_width / 2, y - LABEL_HEIGHT / 2
    yield '<g class="label">'
    yield _rect(left, top, route.label_width, LABEL_HEIGHT, LABEL_HEIGHT / 2, "tag")
    yield _text(x, y + 3.5, route.label, LABEL, "faint", "middle") + "</g>"


# Elements


def _rect(x: float, y: float, width: float, height: float, radius: float, style: str) -> str:
    return (
        f'<rect class="{style}" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}"'
        f' height="{_n(height)}" rx="{_n(radius)}"/>'
    )


def _text(x: float, y: float, text: str, size: float, style: str, anchor: str = "") -> str:
    anchor_attribute = f' text-anchor="{anchor}"' if anchor else ""
    return (
        f'<text class="{style}" x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}"{anchor_attribute}>'
        f"{escape(_clean(text))}</text>"
    )


def _title(text: str) -> str:
    return f"<title>{escape(_clean(text))}</title>"


def _attribute(text: str) -> str:
    return quoteattr(_clean(text))


def _clean(text: str) -> str:
    """The text without characters that XML cannot represent."""
    return _FORBIDDEN.sub("�", text)


def _n(number: float) -> str:
    """A coordinate with one decimal, because more cannot be seen."""
    return f"{number:.1f}".removesuffix(".0")
