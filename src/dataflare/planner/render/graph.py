"""A plan's JSON view as a graph that is easy to draw: typed, in a fixed order, cycles cut.

Always true: every node of the view is in exactly one stage; stages follow their inputs; a view may lack
the optional keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, field

from dataflare.errors import from_here

SOURCE, TRANSFORMATION, DESTINATION = "source", "transformation", "destination"


class Step(Struct, frozen=True):
    """A step of the workflow. level, reason: a destination's delivery guarantee."""

    id: str
    kind: str
    type: str
    notes: tuple[str, ...] = ()
    schema: Mapping[str, str] = field(default_factory=dict)
    level: str | None = None
    reason: str = ""


class Edge(Struct, frozen=True):
    """Rows from a step, or from one of its outputs, to another step."""

    source: str
    target: str
    output: str | None
    exchange: str
    keys: tuple[str, ...]

    @property
    def origin(self) -> str:
        """The text in the target's `inputs`: the step, or `step.output`."""
        return f"{self.source}.{self.output}" if self.output else self.source

    @property
    def exchange_text(self) -> str:
        """The exchange in words. Empty if rows stay in their task."""
        if self.exchange in ("chain", "forward"):
            return ""
        return f"{self.exchange} by {', '.join(self.keys)}" if self.keys else self.exchange


class Stage(Struct, frozen=True):
    """Steps fused into one chain, in order. merged: the chain is one query with its source's scan.
    reads: the stages that send it rows."""

    id: str
    steps: tuple[Step, ...]
    parallelism: int
    merged: bool
    reads: tuple[str, ...] = ()

    @property
    def tasks(self) -> str:
        return f"{self.parallelism} task{'s' * (self.parallelism != 1)}"


class Graph(Struct, frozen=True):
    """A whole plan."""

    workflow: str
    mode: str
    parallelism: int
    stages: tuple[Stage, ...]
    edges: tuple[Edge, ...]
    rules: tuple[tuple[str, str], ...]
    commits: str = ""
    letters: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """The places of dead letters, each with the steps whose rows are written there."""

    @property
    def steps(self) -> list[Step]:
        return [step for stage in self.stages for step in stage.steps]

    @property
    def stage_of(self) -> dict[str, int]:
        """For each step, the index of its stage."""
        return {s.id: i for i, stage in enumerate(self.stages) for s in stage.steps}

    @property
    def letter_lines(self) -> list[str]:
        """One line for each place of dead letters."""
        return [
            f"dead letters of {', '.join(steps)} go to {place}" for place, steps in self.letters
        ]

    @property
    def headline(self) -> str:
        """The facts about the whole plan."""
        stages, steps = len(self.stages), len(self.steps)
        return (
            f"{self.mode} · parallelism {self.parallelism}"
            f" · {stages} stage{'s' * (stages != 1)} · {steps} step{'s' * (steps != 1)}"
        )


def graph_of(view: Mapping[str, Any]) -> Graph:
    """The graph of a view."""
    guarantees = view.get("guarantees", {})
    steps = {node["id"]: _step(node, guarantees.get(node["id"], {})) for node in view["nodes"]}
    edges = tuple(_edge(edge) for edge in view["edges"])
    order = follow(steps, [(edge.source, edge.target) for edge in edges])
    return Graph(
        workflow=str(view.get("workflow", "")),
        mode=str(view.get("mode", "batch")),
        parallelism=int(view.get("parallelism", 1)),
        stages=_stages(view, steps, edges, order),
        edges=edges,
        rules=tuple((rule["rule"], rule["effect"]) for rule in view.get("rules", ())),
        commits=str(view.get("commits", "")),
        letters=tuple(
            (from_here(str(each["place"])), tuple(each["steps"]))
            for each in view.get("dead_letters", ())
        ),
    )


def follow(items: Iterable[Any], links: Iterable[tuple[Any, Any]]) -> list[Any]:
    """The items in an order in which every link leads forward. Each item comes as soon as possible after
    its predecessor, so that chains stay together. Items on a cycle are left out."""
    after: dict[Any, list[Any]] = {item: [] for item in items}
    waiting = dict.fromkeys(after, 0)
    for source, target in links:
        after[source].append(target)
        waiting[target] += 1
    ready = [item for item in reversed(after) if not waiting[item]]
    order = []
    while ready:
        item = ready.pop()
        order.append(item)
        freed = []
        for target in after[item]:
            waiting[target] -= 1
            if not waiting[target]:
                freed.append(target)
        ready.extend(reversed(freed))
    return order


def _stages(
    view: Mapping[str, Any], steps: dict[str, Step], edges: tuple[Edge, ...], order: list[str]
) -> tuple[Stage, ...]:
    """The view's stages. If the stages form a cycle, each step becomes its own stage."""
    facts = {stage["id"]: stage for stage in view.get("stages", ())}
    homes = {node["id"]: node.get("stage", node["id"]) for node in view["nodes"]}
    parallelism = {node["id"]: int(node.get("parallelism", 1)) for node in view["nodes"]}
    stage_ids = dict.fromkeys(homes[name] for name in order)
    links = [(homes[e.source], homes[e.target]) for e in edges]
    sequence = follow(stage_ids, [link for link in links if link[0] != link[1]])
    if len(sequence) < len(stage_ids):
        return tuple(Stage(name, (steps[name],), parallelism[name], False) for name in order)
    stages = []
    feeding = {home: [s for s, t in dict.fromkeys(links) if t == home != s] for home in sequence}
    for home in sequence:
        members = [name for name in order if homes[name] == home]
        fact = facts.get(home, {})
        stages.append(
            Stage(
                id=str(home),
                steps=tuple(steps[name] for name in members),
                parallelism=int(fact.get("parallelism", parallelism[members[0]])),
                merged=bool(fact.get("merged_into_scan")) and len(members) > 1,
                reads=tuple(str(other) for other in sequence if other in feeding[home]),
            )
        )
    return tuple(stages)


def _step(node: Mapping[str, Any], guarantee: Mapping[str, Any]) -> Step:
    return Step(
        id=node["id"],
        kind=node["kind"],
        type=str(node.get("type", "")),
        notes=tuple(note for note in node.get("notes", ()) if note),
        schema=dict(node.get("schema") or {}),
        level=guarantee.get("level"),
        reason=guarantee.get("reason", ""),
    )


def _edge(edge: Mapping[str, Any]) -> Edge:
    return Edge(
        source=edge["from"],
        target=edge["to"],
        output=edge.get("output"),
        exchange=edge.get("exchange", "forward"),
        keys=tuple(edge.get("keys") or ()),
    )
