"""What must hold for the drawing of any plan: nothing lost, nothing on top of another, text fits."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Any
from xml.etree import ElementTree

import plan_views
from hypothesis import given, settings

from dataflare.planner.render import layers, svg
from dataflare.planner.render.arrange import LABEL_HEIGHT, arrange
from dataflare.planner.render.graph import graph_of
from dataflare.planner.render.layers import Box, Link
from dataflare.planner.render.measure import text_width

_SVG = "{http://www.w3.org/2000/svg}"
_BOLD = "strong"


def drawn(view: dict[str, Any]) -> ElementTree.Element:
    return ElementTree.fromstring(svg.render(view))


def groups(root: ElementTree.Element, style: str) -> list[ElementTree.Element]:
    return [each for each in root.iter(f"{_SVG}g") if each.get("class") == style]


def rectangle(element: ElementTree.Element) -> tuple[float, float, float, float]:
    found = element.find(f"{_SVG}rect")
    assert found is not None
    x, y, width, height = (float(found.get(name) or 0) for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def clean(text: str) -> str:
    """Without what XML cannot hold."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "�", text)


@settings(max_examples=50, deadline=None)
@given(plan_views.views())
def test_every_step_and_every_edge_of_a_plan_is_drawn_once(view: dict[str, Any]) -> None:
    root = drawn(view)
    steps = Counter(each.get("data-step") for each in groups(root, "step"))
    assert steps == Counter(clean(node["id"]) for node in view["nodes"])
    edges = Counter(
        (each.get("data-from"), each.get("data-to"))
        for each in root.iter(f"{_SVG}g")
        if each.get("data-to") is not None
    )
    wanted = Counter(
        (clean(f"{e['from']}.{e['output']}" if e["output"] else e["from"]), clean(e["to"]))
        for e in view["edges"]
    )
    assert edges == wanted


@settings(max_examples=50, deadline=None)
@given(plan_views.views())
def test_no_two_boxes_cards_or_labels_overlap(view: dict[str, Any]) -> None:
    root = drawn(view)
    for style in ("stage", "step", "label"):
        for a, b in itertools.combinations(map(rectangle, groups(root, style)), 2):
            assert not overlap(a, b), f"two of '{style}' overlap: {a} {b}"
    cards = [rectangle(each) for each in groups(root, "stage")]
    for label in map(rectangle, groups(root, "label")):
        assert not any(overlap(label, card) for card in cards)
    for box in map(rectangle, groups(root, "step")):
        inside = [c for c in cards if c[0] <= box[0] and box[2] <= c[2] and c[1] <= box[1]]
        assert [c for c in inside if box[3] <= c[3]], "a step's box is outside of all cards"


@settings(max_examples=50, deadline=None)
@given(plan_views.views())
def test_all_text_is_inside_its_box(view: dict[str, Any]) -> None:
    root = drawn(view)
    for style in ("stage", "step", "label"):
        for group in groups(root, style):
            left, top, right, bottom = rectangle(group)
            for text in group.findall(f"{_SVG}text"):
                size = float(text.get("font-size") or 0)
                bold = _BOLD in (text.get("class") or "")
                width = text_width(text.text or "", size, bold=bold)
                x, y = float(text.get("x") or 0), float(text.get("y") or 0)
                start = x - {"middle": width / 2, "end": width}.get(
                    text.get("text-anchor") or "", 0
                )
                assert left <= start + 0.1
                assert start + width <= right + 0.1, f"'{text.text}' is wider than its box"
                assert top <= y - size * 0.7
                assert y <= bottom


@settings(max_examples=50, deadline=None)
@given(plan_views.views())
def test_no_edge_passes_through_a_card_it_does_not_belong_to(view: dict[str, Any]) -> None:
    graph = graph_of(view)
    drawing = arrange(graph)
    home = graph.stage_of
    for route in drawing.routes:
        own = {home[route.edge.source], home[route.edge.target]}
        for number, (card, x, y) in enumerate(drawing.cards):
            if number in own:
                continue
            for (x1, y1), (x2, y2) in itertools.pairwise(route.points):
                box = (min(x1, x2), min(y1, y2) - 0.1, max(x1, x2), max(y1, y2) + 0.1)
                assert not overlap(box, (x, y, x + card.width, y + card.height))


@settings(max_examples=50, deadline=None)
@given(plan_views.views())
def test_everything_is_inside_the_drawing_and_flows_to_the_right(view: dict[str, Any]) -> None:
    drawing = arrange(graph_of(view))
    for card, x, y in drawing.cards:
        assert x >= 0
        assert y >= -0.01
        assert x + card.width <= drawing.width + 0.01
        assert y + card.height <= drawing.height + 0.01
    for route in drawing.routes:
        for (x1, _), (x2, _) in itertools.pairwise(route.points):
            assert x1 <= x2 + 0.01
        for _, y in route.points:
            assert y - LABEL_HEIGHT / 2 >= -0.01
            assert y + LABEL_HEIGHT / 2 <= drawing.height + 0.01


def test_the_same_plan_is_drawn_the_same_each_time() -> None:
    assert svg.render(plan_views.LINEAR) == svg.render(plan_views.LINEAR)


def test_a_chain_of_stages_runs_along_one_straight_line() -> None:
    drawing = arrange(graph_of(plan_views.LINEAR))
    for route in drawing.routes:
        assert len({round(y, 3) for _, y in route.points}) == 1


def test_cards_that_stand_in_one_column_are_equally_wide() -> None:
    view = plan_views.view(
        "w",
        [
            plan_views.node("s", "source", "file", 0),
            plan_views.node("a", "destination", "file", 1),
            plan_views.node("b", "destination", "file", 2, "a note that needs some more room"),
        ],
        [plan_views.edge("s", "a", "rebalance"), plan_views.edge("s", "b", "rebalance")],
    )
    _, a, b = sorted(arrange(graph_of(view)).cards, key=lambda placed: placed[1])
    assert a[1] == b[1]
    assert a[0].width == b[0].width


def test_edges_that_could_cross_do_not() -> None:
    boxes = [Box(100, 60) for _ in range(6)]
    links = [Link(a, b, 30, 30) for a, b in [(0, 5), (1, 4), (2, 3)]]
    layers.place(boxes, links, 30)
    for one, other in itertools.combinations(links, 2):
        leaves = boxes[one.source].y - boxes[other.source].y
        enters = boxes[one.target].y - boxes[other.target].y
        assert leaves * enters > 0


def test_a_destination_wears_its_guarantee_and_pointing_at_it_tells_why() -> None:
    root = drawn(plan_views.LINEAR)
    (out,) = (each for each in groups(root, "step") if each.get("data-step") == "out")
    assert "exactly once" in [text.text for text in out.findall(f"{_SVG}text")]
    title = out.findtext(f"{_SVG}title")
    assert title is not None
    assert "exactly once: the source replays exactly" in title
    assert "distance: int64" in title


def test_names_are_text_never_markup() -> None:
    nodes = [plan_views.node("</svg><script>&\x00\x0b", "source", '"><b>', 0)]
    root = drawn(plan_views.view("a<b>&'\"", nodes, []))
    assert not list(root.iter("script"))
    assert not list(root.iter(f"{_SVG}script"))
    (step,) = groups(root, "step")
    assert step.get("data-step") == "</svg><script>&��"


def test_the_drawing_stands_alone_and_knows_light_and_dark() -> None:
    text = svg.render(plan_views.LINEAR)
    assert "prefers-color-scheme: dark" in text
    for outside in ("http://", "https://", "url(", "@import", "<script", "<image"):
        assert outside not in text.replace("http://www.w3.org/2000/svg", "")
