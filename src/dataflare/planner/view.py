"""A plan as plain data, for `plan --format json` and for the drawings."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any

from dataflare.model.batch import INSERTS, Kinds
from dataflare.operators.base import LookupTable
from dataflare.operators.lookup import Lookup
from dataflare.planner.change_order import kept_in_front
from dataflare.planner.changelog import row_kinds, shown_kinds
from dataflare.planner.dead_letters import error_handling
from dataflare.planner.facts import (
    dead_letters,
    destination_notes,
    merged_into_scan,
    of_destination,
    of_source,
    source_notes,
    stage_inputs,
)
from dataflare.planner.graph import (
    BranchNode,
    DestinationNode,
    Graph,
    Node,
    Port,
    RowsNode,
    SourceNode,
    StatefulNode,
)
from dataflare.planner.guarantees import Guarantee
from dataflare.planner.physical import PhysicalPlan, Stage
from dataflare.planner.rate_notes import rate_notes
from dataflare.planner.whole_changes import whole_changes_notes
from dataflare.planner.written_as import partial_results, unread_kinds
from dataflare.sdk.source import SourceConnector

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow


def view(
    workflow: Workflow,
    written: Graph,
    graph: Graph,
    plan: PhysicalPlan,
    levels: dict[str, Guarantee],
) -> dict[str, Any]:
    """written: the plan as the user wrote it, for the steps and their order; graph: optimised."""
    stages = {step: stage for stage in reversed(plan.stages) for step in stage.steps}
    stages_by_name = {stage.name: stage for stage in plan.stages}
    steps = [node for node in written if "/" not in node.id]
    tables = {
        table.name: table
        for node in steps
        for table in _tables(node)
        if table.name not in written.nodes
    }
    notes, kinds = _notes(graph), row_kinds(written)
    sources = {node.step: node.connector for node in graph if isinstance(node, SourceNode)}
    nodes: list[dict[str, Any]] = [
        {
            "id": table.name,
            "kind": "source",
            "type": table.source.type,
            "stage": len(plan.stages) + index,
            "parallelism": 1,
            "notes": ["read whole at the start of each run"],
            "schema": table.schema.to_json(),
            "row_kinds": ["insert"],
            "on_error": "fail",
        }
        for index, table in enumerate(tables.values())
    ]
    kept = kept_in_front(written)
    workflow_notes = {name: step.notes for name, step in workflow.sources.items()}
    told = partial_results(graph) | unread_kinds(graph) | whole_changes_notes(written)
    doubts = {name: f"look at this: {doubt}" for name, doubt in written.doubts.items()}
    for node in steps:
        stage = stages_by_name.get(node.step) or _stage_of(written, node, stages)
        facts, lines = _ends(node, sources, plan.complete)
        nodes.append(
            {
                "id": node.id,
                "kind": _kind(node),
                "type": node.type,
                "stage": stage.id,
                "parallelism": stage.parallelism,
                "notes": [
                    *lines,
                    *workflow_notes.get(node.id, ()),
                    *rate_notes(workflow, node.id),
                    *filter(None, [doubts.get(node.step.partition(".")[0])]),
                    *notes.get(node.id, []),
                    *(told[name] for name in dict.fromkeys((node.id, node.step)) if name in told),
                    *_kind_notes(kinds[node.id]),
                    *([kept[node.id].why] if node.id in kept else []),
                ],
                "schema": _schema(node),
                "row_kinds": [kind.name.lower() for kind in sorted(kinds[node.id])],
                "on_error": error_handling(workflow, node.step).on_error,
                **facts,
            }
        )
    asked = workflow.settings.mode
    placed = {entry["id"]: entry["stage"] for entry in nodes}
    members = {s.id: [name for name, stage in placed.items() if stage == s.id] for s in plan.stages}
    return {
        "workflow": workflow.name,
        "mode": "batch" if plan.bounded and asked != "streaming" else "streaming",
        "parallelism": workflow.settings.parallelism,
        "stages": [
            {
                "id": stage.id,
                "name": stage.name,
                "steps": members[stage.id],
                "parallelism": stage.parallelism,
                "reads": stage_inputs(plan, stage.id),
                "merged_into_scan": merged_into_scan(plan, stage.id, members[stage.id]),
            }
            for stage in plan.stages
        ]
        + [
            {
                "id": len(plan.stages) + index,
                "name": name,
                "steps": [name],
                "parallelism": 1,
                "reads": [],
                "merged_into_scan": False,
            }
            for index, name in enumerate(tables)
        ],
        "nodes": nodes,
        "edges": _edges(written, steps, plan, placed),
        "guarantees": {
            name: {"level": g.level.value, "reason": g.reason} for name, g in levels.items()
        },
        "dead_letters": dead_letters(plan),
        "rules": [{"rule": e.rule, "effect": e.effect} for e in graph.effects],
        "commits": "at the end of the run" if plan.commits_wait else "with each checkpoint",
    }


def _ends(
    node: Node, sources: Mapping[str, SourceConnector], complete: Container[str]
) -> tuple[dict[str, Any], list[str]]:
    """The facts of a source or a destination, as keys of the view and as lines to show."""
    if isinstance(node, SourceNode):
        facts = of_source(sources.get(node.step, node.connector))
        return facts, list(source_notes(facts, node.schema.to_json()))
    if isinstance(node, DestinationNode):
        facts = of_destination(node.connector, complete=node.id in complete)
        lines = list(destination_notes(facts))
        if node.run_column is not None:
            lines.append(f"column {node.run_column}: the run's id")
        return facts, lines
    return {}, []


def _stage_of(written: Graph, node: Node, stages: Mapping[str, Stage]) -> Stage:
    """The stage of a step. A step that an optimiser rule removed (a pushed filter, a map of unread
    columns) is shown in the stage of its input."""
    while node.step not in stages:
        node = written.nodes[node.inputs[0].node]
    return stages[node.step]


def _kind(node: Node) -> str:
    if isinstance(node, SourceNode):
        return "source"
    return "destination" if isinstance(node, DestinationNode) else "transformation"


def _kind_notes(kinds: Kinds) -> list[str]:
    return [] if kinds == INSERTS else [f"a changelog: {shown_kinds(kinds)}"]


def _schema(node: Node) -> dict[str, str]:
    if isinstance(node, DestinationNode):
        return node.written.to_json()
    schema = node.outputs.get(None) or next(iter(node.outputs.values()))
    return schema.to_json()


def _notes(graph: Graph) -> dict[str, list[str]]:
    notes: dict[str, list[str]] = {}
    stateful = {node.step for node in graph if isinstance(node, StatefulNode)}
    for node in graph:
        if isinstance(node, SourceNode):
            if node.read_columns is not None:
                text = f"reads {len(node.read_columns)} of {node.all_columns} columns"
                notes.setdefault(node.step, []).append(text)
            for condition in node.pushed_filters:
                notes.setdefault(node.step, []).append(f"filter pushed down: {condition}")
        elif isinstance(node, RowsNode):
            for operator in node.operators:
                # Operators that a stateful step runs before its exchange are part of that step.
                if operator.step not in stateful:
                    notes.setdefault(operator.step, []).append(operator.describe())
        elif isinstance(node, BranchNode):
            notes.setdefault(node.step, []).append(node.branch.described)
        elif isinstance(node, StatefulNode):
            notes.setdefault(node.step, []).append(node.operator.describe())
    return notes


def _edges(
    written: Graph, steps: list[Node], plan: PhysicalPlan, placed: dict[str, int]
) -> list[dict[str, Any]]:
    crossing = {(edge.from_stage, edge.to_stage): edge for edge in plan.edges}
    edges = []
    for node in steps:
        for port in (_of_a_step(written, port) for port in node.inputs):
            edge = crossing.get((placed[port.node], placed[node.id]))
            exchange, keys = "chain", []
            if placed[port.node] != placed[node.id]:
                exchange = "forward"
                if edge is not None:
                    exchange = "rebalance" if edge.exchange == "gather" else edge.exchange
                    keys = list(edge.keys)
            edges.append(
                {
                    "from": port.node,
                    "output": port.output,
                    "to": node.id,
                    "exchange": exchange,
                    "keys": keys,
                }
            )
        edges.extend(
            {"from": table.name, "output": None, "to": node.id, "exchange": "broadcast", "keys": []}
            for table in _tables(node)
        )
    return edges


def _of_a_step(written: Graph, port: Port) -> Port:
    """The port of a step of the file. A part of a step is replaced by the step's input."""
    while "/" in port.node:
        port = written.nodes[port.node].inputs[0]
    return port


def _tables(node: Node) -> list[LookupTable]:
    """The lookup tables that are read completely and sent to all tasks."""
    operators = node.operators if isinstance(node, RowsNode) else ()
    lookups = [each for each in operators if isinstance(each, Lookup)]
    return [op.table for op in lookups if not op.asked]
