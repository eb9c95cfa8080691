"""Place all elements of the drawing: cards in columns, edges with their bends and labels.

Elements are placed twice: first with all edges at the middle of each step, then with a port for each
edge, in the order in which the edges arrived in the first placement.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field

from dataflare.planner.render import cards, layers
from dataflare.planner.render.cards import Card, StepBox
from dataflare.planner.render.graph import Edge, Graph
from dataflare.planner.render.layers import Box, Link
from dataflare.planner.render.measure import fit, text_width

LABEL, LABEL_HEIGHT, LABEL_PAD = 10.0, 19.0, 9.0
_LABEL_WIDEST = 170.0
_COLUMN_GAP = 26.0


Arrivals = dict[int, tuple[float, float]]
"""For each edge, the heights at which it arrives at its target and leaves its source."""


class Route(Struct):
    """An edge between cards. points: its way from port to port; between the points 2i and 2i+1 it is
    level, from 2i+1 to 2i+2 it bends. label_at: the middle of its label."""

    edge: Edge
    points: list[tuple[float, float]]
    label: str = ""
    label_width: float = 0.0
    label_at: tuple[float, float] = (0.0, 0.0)


class Drawing(Struct):
    """Cards with their top left corners, and the edges between them."""

    width: float
    height: float
    cards: list[tuple[Card, float, float]] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)


def arrange(graph: Graph) -> Drawing:
    """Place a graph."""
    stage_cards = [cards.card(stage, graph) for stage in graph.stages]
    steps = {box.step.id: box for each in stage_cards for box in each.steps}
    home = graph.stage_of
    edges = [edge for edge in graph.edges if home[edge.source] != home[edge.target]]
    arrivals: Arrivals | None = None
    for _ in range(2):
        _ports(edges, steps, arrivals)
        boxes = [Box(each.width, each.height) for each in stage_cards]
        links = [_link(index, edge, steps, home) for index, edge in enumerate(edges)]
        width, _ = layers.place(boxes, links, _COLUMN_GAP)
        arrivals = {
            i: (_height(link.way[-1]), _height(link.way[0])) for i, link in enumerate(links)
        }
    _ports(edges, steps, arrivals)
    for index, (edge, link) in enumerate(zip(edges, links, strict=True)):
        link.leaves, link.enters = _ends(index, edge, steps)
    layers.straighten(boxes, links)
    _align(stage_cards, boxes)
    return _at_origin(
        Drawing(
            width,
            0.0,
            [(each, box.x, box.y) for each, box in zip(stage_cards, boxes, strict=True)],
            [_route(edge, link, boxes, steps) for edge, link in zip(edges, links, strict=True)],
        )
    )


def _align(stage_cards: Sequence[Card], boxes: Sequence[Box]) -> None:
    """Make the cards of one column equally wide."""
    widest: dict[int, float] = {}
    for box in boxes:
        widest[box.rank] = max(widest.get(box.rank, 0.0), box.width)
    for card, box in zip(stage_cards, boxes, strict=True):
        card.widen(widest[box.rank] - card.width)


def _at_origin(drawing: Drawing) -> Drawing:
    """The drawing moved up or down so that it begins at 0, with its height."""
    half = LABEL_HEIGHT / 2
    heights = [y for route in drawing.routes for _, y in route.points]
    top = min([*(y for _, _, y in drawing.cards), *(y - half for y in heights)], default=0.0)
    ends = [y + card.height for card, _, y in drawing.cards]
    drawing.height = max([*ends, *(y + half for y in heights)], default=0.0) - top
    drawing.cards = [(card, x, y - top) for card, x, y in drawing.cards]
    for route in drawing.routes:
        route.points = [(x, y - top) for x, y in route.points]
        route.label_at = (route.label_at[0], route.label_at[1] - top)
    return drawing


def label(edge: Edge) -> str:
    """The text on an edge: the output that it leaves and the exchange of its rows. It may be empty."""
    return fit(" · ".join(filter(None, [edge.output, edge.exchange_text])), LABEL, _LABEL_WIDEST)


def _ports(edges: Sequence[Edge], steps: dict[str, StepBox], arrivals: Arrivals | None) -> None:
    """Spread the ports of each step in the order in which its edges arrive and leave. arrivals: None in
    the first placement; all ports are then in the middle."""
    for name, box in steps.items():
        entering = [i for i, edge in enumerate(edges) if edge.target == name]
        leaving = [i for i, edge in enumerate(edges) if edge.source == name]
        if arrivals:
            entering.sort(key=lambda i: arrivals[i][0])
            leaving.sort(key=lambda i: arrivals[i][1])
        outputs = dict.fromkeys(edges[i].output or "" for i in leaving)
        box.spread_ports(list(outputs), entering, apart=arrivals is not None)


def _link(index: int, edge: Edge, steps: dict[str, StepBox], home: dict[str, int]) -> Link:
    text = label(edge)
    return Link(
        home[edge.source],
        home[edge.target],
        *_ends(index, edge, steps),
        (text_width(text, LABEL) + 2 * LABEL_PAD, LABEL_HEIGHT) if text else None,
    )


def _ends(index: int, edge: Edge, steps: dict[str, StepBox]) -> tuple[float, float]:
    """How far below the tops of their cards an edge leaves and enters."""
    source, target = steps[edge.source], steps[edge.target]
    return source.y + source.ports_out[edge.output or ""], target.y + target.ports_in[index]


def _height(bend: Box) -> float:
    return bend.y + bend.height / 2


def _route(edge: Edge, link: Link, boxes: Sequence[Box], steps: dict[str, StepBox]) -> Route:
    source, target = boxes[link.source], boxes[link.target]
    start, end = steps[edge.source], steps[edge.target]
    level_out, level_in = source.y + link.leaves, target.y + link.enters
    right = source.x + start.x + start.width
    points = [(right, level_out), (right + cards.PAD, level_out)]
    for bend in link.way:
        if bend is not link.label_box and not bend.width:
            continue
        points += [(bend.x, _height(bend)), (bend.x + bend.width, _height(bend))]
    points += [(target.x, level_in), (target.x + end.x, level_in)]
    route = Route(edge, points)
    if link.label and link.label_box:
        middle = link.label_box.x + link.label_box.width / 2
        route.label, route.label_width = label(edge), link.label[0]
        route.label_at = (middle, _height(link.label_box))
    return route
