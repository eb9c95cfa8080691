"""The content of each stage's card: sizes and texts, before the cards are placed.

A card shows its steps from top to bottom, in the order in which rows pass them. Edges to other cards
leave a step at its right side and enter at its left side, so no edge crosses a step of the same card.
Edges inside a card that skip steps run through a gutter at the left.
"""

from __future__ import annotations

from msgspec import Struct, field

from dataflare.planner.render.graph import DESTINATION, Edge, Graph, Stage, Step
from dataflare.planner.render.measure import fit, text_width

NAME, TYPE, NOTE, HEAD, BADGE = 13.0, 10.5, 10.5, 10.5, 10.0
"""Sizes of type, in pixels."""

PAD = 12.0
HEAD_HEIGHT = 30.0
STEP_GAP, LABELLED_GAP = 18.0, 26.0
LANE = 12.0
ICON = 22.0
NARROWEST, WIDEST = 176.0, 292.0
NOTES_MAX = 4
_LINE, _NAME_LINE = 15.0, 34.0
PORT_GAP = 14.0


class StepBox(Struct):
    """A step's box. x, y: from the card's top left corner. notes: cut to the box's width."""

    step: Step
    x: float
    y: float
    width: float
    height: float
    name: str
    type: str
    notes: list[str]
    badge: str | None = None
    ports_out: dict[str, float] = field(default_factory=dict)
    ports_in: dict[int, float] = field(default_factory=dict)
    """How far below the box's top edges leave (by output) and enter (by index of the edge)."""

    @property
    def bottom(self) -> float:
        return self.y + self.height

    def spread_ports(self, outputs: list[str], entering: list[int], *, apart: bool) -> None:
        """Give each output and each entering edge its place at the side, in this order."""
        leave = _spots(self.height, len(outputs), apart=apart)
        enter = _spots(self.height, len(entering), apart=apart)
        self.ports_out = dict(zip(outputs, leave, strict=True))
        self.ports_in = dict(zip(entering, enter, strict=True))


class Lane(Struct):
    """An edge inside a card. lane: 0 for straight down, else the number of a line in the gutter."""

    edge: Edge
    source: StepBox
    target: StepBox
    lane: int
    label: str = ""


class Card(Struct):
    """A stage's card; steps and lanes are placed relative to its top left corner."""

    stage: Stage
    width: float
    height: float
    head: str
    tasks: str
    steps: list[StepBox]
    lanes: list[Lane]

    def widen(self, by: float) -> None:
        """Make the card and its boxes wider."""
        self.width += by
        for box in self.steps:
            box.width += by


def card(stage: Stage, graph: Graph) -> Card:
    """The card of a stage."""
    names = [step.id for step in stage.steps]
    inside = [e for e in graph.edges if e.source in names and e.target in names]
    skipping = [e for e in inside if names.index(e.target) != names.index(e.source) + 1]
    gutter = LANE * len(skipping) + (4.0 if skipping else 0.0)
    inner = _inner_width(stage)
    boxes, y = [], HEAD_HEIGHT
    for index, step in enumerate(stage.steps):
        box = _step_box(step, PAD + gutter, y, inner)
        boxes.append(box)
        captioned = any(e.output and e.target in names[index + 1 : index + 2] for e in inside)
        y = box.bottom + (LABELLED_GAP if captioned else STEP_GAP)
    width = inner + 2 * PAD + gutter
    tasks = stage.tasks
    return Card(
        stage=stage,
        width=width,
        height=boxes[-1].bottom + PAD,
        head=fit(_head(stage), HEAD, width - 2 * PAD - text_width(tasks, HEAD) - 8, bold=True),
        tasks=tasks,
        steps=boxes,
        lanes=_lanes(inside, skipping, boxes, inner),
    )


def _spots(height: float, count: int, *, apart: bool) -> list[float]:
    gap = min(PORT_GAP, (height - 12.0) / (count - 1)) if apart and count > 1 else 0.0
    return [height / 2 + (index - (count - 1) / 2) * gap for index in range(count)]


def _head(stage: Stage) -> str:
    return f"stage {stage.id}" + (" · merged into the scan" if stage.merged else "")


def _inner_width(stage: Stage) -> float:
    """The width of the widest text, within bounds."""
    widths = [text_width(_head(stage), HEAD, bold=True) + text_width(stage.tasks, HEAD) + 12]
    for step in stage.steps:
        widths.append(ICON + text_width(step.id, NAME, bold=True) + 26)
        widths.append(ICON + text_width(_type(step), TYPE) + 26)
        widths.extend(text_width(note, NOTE) + 24 for note in step.notes)
        if step.level:
            widths.append(text_width(step.level, BADGE, bold=True) + 52)
    return min(max(*widths, NARROWEST), WIDEST)


def _step_box(step: Step, x: float, y: float, width: float) -> StepBox:
    room = width - 24
    notes = [fit(note, NOTE, room) for note in step.notes[:NOTES_MAX]]
    hidden = len(step.notes) - NOTES_MAX
    if hidden > 0:
        notes[-1] = f"+{hidden + 1} more"
    badge = None
    if step.kind == DESTINATION and step.level:
        badge = fit(step.level, BADGE, room - 28, bold=True)
    height = 8 + _NAME_LINE + _LINE * len(notes) + (4 if notes else 0) + (26 if badge else 2)
    name = fit(step.id, NAME, width - ICON - 24, bold=True)
    type_ = fit(_type(step), TYPE, width - ICON - 24)
    return StepBox(step, x, y, width, height, name, type_, notes, badge)


def _type(step: Step) -> str:
    return f"{step.type} {step.kind}" if step.type else step.kind


def note_baseline(index: int) -> float:
    """Where the text of note `index` stands below its box's top."""
    return 8 + _NAME_LINE + _LINE * index + 12


def _lanes(
    inside: list[Edge], skipping: list[Edge], boxes: list[StepBox], inner: float
) -> list[Lane]:
    by_name = {box.step.id: box for box in boxes}
    return [
        Lane(
            edge,
            by_name[edge.source],
            by_name[edge.target],
            skipping.index(edge) + 1 if edge in skipping else 0,
            fit(edge.output or "", NOTE, inner / 2 - 12),
        )
        for edge in inside
    ]
