"""A plan as plain data, for `plan --format json` and for the pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dataflare.planner.graph import (
    BranchNode,
    DestinationNode,
    Graph,
    Node,
    RowsNode,
    SourceNode,
    StatefulNode,
)
from dataflare.planner.guarantees import Guarantee
from dataflare.planner.physical import PhysicalPlan

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow


def view(
    workflow: Workflow, written: Graph, graph: Graph, plan: PhysicalPlan, found: dict[str, Guarantee]
) -> dict[str, Any]:
    """written: the plan as the user wrote it, for the steps and their order; graph: optimised."""
    stages = {step: stage for stage in reversed(plan.stages) for step in stage.steps}
    own = {stage.name: stage for stage in plan.stages}
    steps = [node for node in written if "/" not in node.id]
    notes = _notes(graph)
    nodes = []
    for node in steps:
        stage = own.get(node.step) or stages[node.step]
        nodes.append(
            {
                "id": node.id,
                "kind": _kind(node),
                "type": node.type,
                "stage": stage.id,
                "parallelism": stage.parallelism,
                "notes": notes.get(node.id, []),
                "schema": _schema(node),
            }
        )
    placed = {entry["id"]: entry["stage"] for entry in nodes}
    return {
        "workflow": workflow.name,
        "mode": "batch" if plan.bounded else "streaming",
        "parallelism": workflow.settings.parallelism,
        "stages": [
            {
                "id": stage.id,
                "name": stage.name,
                "steps": [entry["id"] for entry in nodes if entry["stage"] == stage.id],
                "parallelism": stage.parallelism,
                "merged_into_scan": stage.source is not None
                and stage.source.capabilities().chunks
                and len(stage.steps) > 1,
            }
            for stage in plan.stages
        ],
        "nodes": nodes,
        "edges": _edges(steps, plan, placed),
        "guarantees": {
            name: {"level": g.level.value, "reason": g.reason} for name, g in found.items()
        },
        "rules": [{"rule": e.rule, "effect": e.effect} for e in graph.effects],
        "commits": "at the end of the run" if plan.commits_wait else "with each checkpoint",
    }


def _kind(node: Node) -> str:
    if isinstance(node, SourceNode):
        return "source"
    return "destination" if isinstance(node, DestinationNode) else "transformation"


def _schema(node: Node) -> dict[str, str]:
    schema = node.outputs.get(None) or next(iter(node.outputs.values()))
    return schema.to_json()


def _notes(graph: Graph) -> dict[str, list[str]]:
    notes: dict[str, list[str]] = {}
    for node in graph:
        if isinstance(node, SourceNode):
            if node.read_columns is not None:
                text = f"reads {len(node.read_columns)} of {node.all_columns} columns"
                notes.setdefault(node.step, []).append(text)
            for shown in node.pushed_filters:
                notes.setdefault(node.step, []).append(f"filter pushed down: {shown}")
        elif isinstance(node, RowsNode):
            for operator in node.operators:
                notes.setdefault(operator.step, []).append(operator.describe())
        elif isinstance(node, BranchNode):
            notes.setdefault(node.step, []).append(node.branch.described)
        elif isinstance(node, StatefulNode):
            notes.setdefault(node.step, []).append(node.operator.describe())
    return notes


def _edges(steps: list[Node], plan: PhysicalPlan, placed: dict[str, int]) -> list[dict[str, Any]]:
    crossing = {(edge.from_stage, edge.to_stage): edge for edge in plan.edges}
    made = []
    for node in steps:
        for port in _visible_inputs(node, steps):
            source = port[0]
            edge = crossing.get((placed[source], placed[node.id]))
            inside = placed[source] == placed[node.id]
            exchange, keys = "chain", []
            if not inside and edge is not None:
                exchange = "rebalance" if edge.exchange == "gather" else edge.exchange
                keys = list(edge.keys)
            elif not inside:
                exchange = "forward"
            made.append(
                {"from": source, "output": port[1], "to": node.id, "exchange": exchange, "keys": keys}
            )
        made.extend(_lookup_edges(node, placed))
    return made


def _visible_inputs(node: Node, steps: list[Node]) -> list[tuple[str, str | None]]:
    """The inputs by step name: a part of a step stands for the step it belongs to."""
    return [
        (port.node, port.output)
        for port in _written_inputs(node)
        if any(other.id == port.node for other in steps)
    ]


def _written_inputs(node: Node) -> list[Any]:
    return list(getattr(node, "written_inputs", None) or node.inputs)


def _lookup_edges(node: Node, placed: dict[str, int]) -> list[dict[str, Any]]:
    made = []
    for operator in getattr(node, "operators", ()):
        table = getattr(operator, "table", None)
        if table is not None and table.name in placed:
            made.append(
                {"from": table.name, "output": None, "to": node.id, "exchange": "broadcast", "keys": []}
            )
    return made
