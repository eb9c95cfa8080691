"""Which rows have an event time, which steps need it, and the stamps behind the sources. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dataflare.errors import DataFlareError, PlanError, did_you_mean
from dataflare.expr import check
from dataflare.model.types import DataType, Schema
from dataflare.operators.base import Bound, RowOperator
from dataflare.operators.primitives import quote
from dataflare.operators.stamp import Stamp
from dataflare.planner.graph import (
    BranchNode,
    Graph,
    Node,
    Port,
    RowsNode,
    SourceNode,
    StatefulNode,
    UnionNode,
)
from dataflare.planner.guarantees import upstream

if TYPE_CHECKING:
    from dataflare.expr import Typed
    from dataflare.workflow.model import SourceStep, TransformationStep, Workflow

_MICROS = 1_000_000


def event_time_of(step: SourceStep, schema: Schema, changed_at: str | None = None) -> Typed:
    """The event time of a source's rows: a column, or an expression over columns. changed_at: the column that is NULL in rows
    which were there before the log: they have the first event time of all. Raises PlanError (E0203, E0330) unless it is there and
    gives times, ExpressionError."""
    assert step.event_time is not None
    column = step.event_time.column
    spot = step.spot_of("event_time", "column")
    if column not in schema and column.isidentifier():
        raise PlanError(
            f"unknown column '{column}' in the event_time of source '{step.name}'",
            code="E0203",
            step=step.name,
            spot=spot,
            notes=[f"its columns: {', '.join(schema.names)}"],
            help=did_you_mean(column, schema.names),
        )
    try:
        expression = quote(column) if column in schema else column
        if column == changed_at:
            expression = f"coalesce({expression}, to_timestamp(0))"
        time = check(expression, schema, step=step.name)
    except DataFlareError as error:
        raise error.at(spot=spot) from None
    if time.type.name not in ("timestamp", "date"):
        raise PlanError(
            f"the event time of source '{step.name}' is '{column}', which is {time.type}, not a timestamp",
            code="E0330",
            step=step.name,
            spot=spot,
            help=_made_of(column, time.type),
        )
    return time


def _made_of(column: str, type_: DataType) -> str:
    """How a timestamp is made of a value of another type."""
    if type_.is_numeric:
        return (
            f"say what the number is: column: to_timestamp({column}) for seconds since 1970, "
            f"epoch_ms({column}) for milliseconds"
        )
    return (
        f"say how it is written: column: \"strptime({column}, '%d.%m.%Y %H:%M')\"; or declare it in 'schema': "
        f'{{{column}: "timestamp[us, UTC]"}}'
    )


def keeps_time(bound: Bound) -> bool:
    """Whether the rows of a bound step have an event time if those of its inputs have one."""
    if bound.stateful is not None and not bound.stateful.keeps_time:
        return False
    return all(operator.keeps_time for operator in bound.operators)


def refuse_timeless(step: TransformationStep, timed: tuple[bool, ...], workflow: Workflow) -> None:
    """Raise PlanError (E0331) for a step that needs the event time of an input that has none."""
    for ref, has_time in zip(step.inputs, timed, strict=True):
        if has_time:
            continue
        source = workflow.sources.get(ref.step)
        why = "has none" if source is None else "is a source without event_time"
        lacking = [name for name, each in workflow.sources.items() if each.event_time is None]
        without = f" ({', '.join(lacking)} lack it)" if lacking else ""
        cure = (
            f"give every source in front of it an event_time{without}; or a step between ends it (an aggregate, or a "
            "python function over batches; one with mode: record keeps it): put that one behind"
            if source is None
            else f"say which column it is: sources: {{{ref.step}: {{event_time: {{column: ...}}}}}}"
        )
        raise PlanError(
            f"step '{step.name}' works by event time, and its input '{ref.step}' {why}",
            code="E0331",
            step=step.name,
            spot=ref.spot,
            help=cure,
        )


def is_streaming(workflow: Workflow, endless: set[str]) -> bool:
    """Whether watermarks move while the run goes on."""
    mode = workflow.settings.mode
    return mode == "streaming" or (mode == "auto" and any(n in endless for n in workflow.sources))


def refuse_repeated(graph: Graph) -> None:
    """Raise PlanError (E0332) for a step that would count a result of a window again whenever it comes again."""
    for node in graph:
        if not isinstance(node, StatefulNode):
            continue
        for other in (graph.nodes[id_] for id_ in upstream(graph, node.id)):
            if isinstance(other, StatefulNode) and other.operator.repeats:
                raise PlanError(
                    f"step '{node.step}' would take each result of '{other.step}' for a new row, and that window "
                    "gives a result again when rows come that change it (allowed_lateness, trigger)",
                    code="E0332",
                    step=node.step,
                    help=f"leave allowed_lateness and trigger out of '{other.step}', or write its results by key "
                    "(emit: updates, and mode: upsert)",
                )


def refuse_zoneless(graph: Graph, workflow: Workflow) -> None:
    """Raise PlanError (E0333) for a window by the clock of a time zone over event times without a zone, which are
    taken as UTC: a date is its midnight."""
    for node in graph:
        if not isinstance(node, StatefulNode) or node.operator.zone is None:
            continue
        for source in (graph.nodes[id_] for id_ in upstream(graph, node.id)):
            step = workflow.sources.get(source.step)
            if not isinstance(source, SourceNode) or step is None or step.event_time is None:
                continue
            type_ = event_time_of(step, source.schema).type
            if type_.timezone:
                continue
            zone, column = node.operator.zone, step.event_time.column
            raise PlanError(
                f"step '{node.step}' follows the clock of {zone}, and the event time of source '{step.name}' has no "
                "time zone, so it would be taken as UTC",
                code="E0333",
                step=node.step,
                help=f"say whose clock it is: in source '{step.name}', {_zoned(column, source.schema, type_, zone)}",
            )


def _zoned(column: str, schema: Schema, type_: DataType, zone: str) -> str:
    """How an event time says that it follows the clock of a zone."""
    if column in schema and type_.name == "timestamp":
        return f'schema: {{{column}: "timestamp[us, {zone}]"}}'
    if column not in schema:
        time = f"({column})"
    else:
        time = column if column.isidentifier() else quote(column)
    if type_.name == "date":
        time = f"CAST({time} AS timestamp)"
    expression = f"{time} AT TIME ZONE '{zone}'"
    return f"event_time: {{column: {json.dumps(expression, ensure_ascii=False)}}}"


def endless_in_batch(workflow: Workflow, endless: set[str]) -> list[PlanError]:
    """An error for each source without an end, where the mode is batch."""
    if workflow.settings.mode != "batch":
        return []
    return [
        PlanError(
            f"mode is batch, but source '{name}' has no end",
            code="E0317",
            step=name,
            spot=workflow.sources[name].type_spot,
            help="set mode: streaming, or bound the source",
        )
        for name in sorted(endless)
    ]


def _stamp_id(node: Node) -> str:
    return f"{node.id}/time"


def stamp_of(graph: Graph, node: SourceNode) -> RowOperator | None:
    """The stamp behind a source in a stamped graph, None if its rows have no event time."""
    behind = graph.nodes.get(_stamp_id(node))
    return behind.operators[0] if isinstance(behind, RowsNode) else None


def stamped(graph: Graph, workflow: Workflow, *, streaming: bool) -> Graph:
    """The graph with a stamp behind each source that has an event time."""
    nodes: dict[str, Node] = {}
    stamps: dict[str, str] = {}
    for node in graph:
        nodes[node.id] = node
        event_time = (
            workflow.sources[node.step].event_time if isinstance(node, SourceNode) else None
        )
        if event_time is None or not isinstance(node, SourceNode):
            continue
        stamp = Stamp(
            node.step,
            event_time.column,
            event_time_of(
                workflow.sources[node.step], node.schema, node.connector.capabilities().changed_at
            ),
            round(event_time.out_of_orderness * _MICROS),
            _micros(event_time.max_future),
            event_time.idle_timeout,
            _micros(event_time.max_drift),
            streaming,
        )
        stamps[node.id] = _stamp_id(node)
        nodes[stamps[node.id]] = RowsNode(
            stamps[node.id], node.step, node.type, node.outputs, Port(node.id), (stamp,)
        )
    graph = Graph(nodes, graph.effects)
    for source, stamp_id in stamps.items():
        stamp_node = graph.nodes[stamp_id]
        graph = graph.rewired(Port(source), Port(stamp_id)).with_nodes({stamp_id: stamp_node})
    return graph


def needing_time(graph: Graph) -> frozenset[str]:
    """The ids of the nodes whose rows must arrive with their event time."""
    needing: set[str] = set()
    for node in reversed(list(graph)):
        asked = any(reader.id in needing for reader, _, _ in graph.consumers(node.id))
        match node:
            case StatefulNode():
                if node.operator.timed or (node.operator.keeps_time and asked):
                    needing.add(node.id)
            case RowsNode() | BranchNode() | UnionNode():
                if asked:
                    needing.add(node.id)
    return frozenset(needing)


def _micros(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * _MICROS)
