"""The physical plan: stages of tasks, and the edges that carry rows between them.

A stage begins at a source, a stateful operator or a destination. It has all row operators up to the
next of those, as a tree of segments; each segment is one lazy query per batch. A union is not a
stage: its inputs send to the same edge. All classes are frozen and pickle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from dataflare.errors import InternalError
from dataflare.model.types import Schema
from dataflare.operators.base import Branch, LookupTable, RowOperator, StatefulOperator
from dataflare.operators.lookup import Lookup
from dataflare.operators.stamp import Stamp
from dataflare.planner.dead_letters import LETTERS
from dataflare.planner.event_time import needing_time
from dataflare.planner.graph import (
    BranchNode,
    DestinationNode,
    Graph,
    Port,
    RowsNode,
    SourceNode,
    StatefulNode,
    UnionNode,
)
from dataflare.planner.run_column import with_run_column
from dataflare.planner.stream_views import reading, streams_by_source
from dataflare.planner.turns import with_turns
from dataflare.sdk.destination import DestinationConnector
from dataflare.sdk.source import SourceConnector


class Edge(Struct, frozen=True):
    """Rows from one stage to another. exchange: forward, hash (by keys), gather (all to one task). timed: the
    rows have their event time with them."""

    id: int
    from_stage: int
    to_stage: int
    exchange: str
    keys: tuple[str, ...]
    schema: Schema
    port: int = 0
    timed: bool = False


class Segment(Struct, frozen=True):
    """One lazy query: operators, and an optional branch. children: for each output, its schema, its
    segments and the edges to which it sends. by_key: of the first one behind a source, whether its changes have the key of
    the row that they replace, and not the row."""

    operators: tuple[RowOperator, ...]
    schema: Schema
    branch: Branch | None = None
    children: tuple[tuple[str | None, Schema, tuple[Segment, ...], tuple[int, ...]], ...] = ()
    by_key: bool = False

    def lookups(self) -> list[Lookup]:
        lookups = [op for op in self.operators if isinstance(op, Lookup)]
        for _, _, segments, _ in self.children:
            for segment in segments:
                lookups.extend(segment.lookups())
        return lookups


class Stage(Struct, frozen=True):
    """Exactly one of source, operator and destination is set. body: the segments after a source or an
    operator; None for a destination, and for a source with streams. run_column: of a destination, see `planner.run_column`. sides: the segments after the operator's other
    outputs, or the source's streams, that are read. letters: by step, the edge of its dead letters. diverted: of a destination, by
    name, the edge to the one that gets its rows while its breaker is open. turns: of a source,
    the family whose tables are read in turns."""

    id: int
    name: str
    steps: tuple[str, ...]
    parallelism: int
    schema: Schema
    body: Segment | None = None
    source: SourceConnector | None = None
    operator: StatefulOperator | None = None
    destination: DestinationConnector | None = None
    letters: Mapping[str, int] = field(default_factory=dict)
    diverted: Mapping[str, int] = field(default_factory=dict)
    sides: Mapping[str, Segment] = field(default_factory=dict)
    turns: str | None = None
    run_column: str | None = None

    @property
    def written(self) -> Schema:
        """Of a destination, the columns that it writes."""
        return with_run_column(self.schema, self.run_column)

    @property
    def refuses_at_commit(self) -> bool:
        """As `DestinationCapabilities` says."""
        return self.destination is not None and self.destination.capabilities().refuses_at_commit

    def lookups(self) -> list[Lookup]:
        """The lookups of all its segments."""
        bodies = [self.body] if self.body else []
        return [lookup for body in (*bodies, *self.sides.values()) for lookup in body.lookups()]

    @property
    def event_time(self) -> str | None:
        """Of a source, what the event time of its rows is; None if it has none."""
        if self.source is None:
            return None
        bodies = [self.body] if self.body else list(self.sides.values())
        stamps = [op for body in bodies for op in body.operators if isinstance(op, Stamp)]
        return stamps[0].time.meaning if stamps else None

    @property
    def tables(self) -> dict[str, LookupTable]:
        """The lookup tables the stage needs, by step."""
        return {op.step: op.table for op in self.lookups()}


class PhysicalPlan(Struct, frozen=True):
    """watched: the sources whose new fields can reach a destination. starts_over: one of these
    destinations cannot add columns in the middle of a run. complete: the destinations that receive
    all rows of their sources by the end of the run, and the steps that their rows depend on."""

    stages: tuple[Stage, ...]
    edges: tuple[Edge, ...]
    bounded: bool
    commits_wait: bool = False
    changelogs: frozenset[str] = frozenset()
    complete: Mapping[str, frozenset[str]] = field(default_factory=dict)
    watched: frozenset[str] = frozenset()
    starts_over: bool = False

    @property
    def streams(self) -> dict[str, list[str]]:
        """By source with streams, the names that the rows of those that are read are counted under."""
        return {
            s.name: [f"{s.name}.{n}" for n in s.sides] for s in self.stages if s.source and s.sides
        }

    @property
    def event_times(self) -> dict[str, str]:
        """By source that has one, what the event time of its rows is."""
        times = {stage.name: stage.event_time for stage in self.stages}
        return {name: time for name, time in times.items() if time is not None}

    def into(self, stage: int) -> list[Edge]:
        return [edge for edge in self.edges if edge.to_stage == stage]

    def out_of(self, stage: int) -> list[Edge]:
        return [edge for edge in self.edges if edge.from_stage == stage]


def physical(
    graph: Graph,
    *,
    parallelism: int,
    bounded: bool,
    commits_wait: bool,
    changelogs: frozenset[str],
    complete: Mapping[str, frozenset[str]] | None = None,
    letters: Mapping[str, DestinationConnector] | None = None,
) -> PhysicalPlan:
    """Cut a logical plan into stages. letters: the dead-letter destination of steps that need one."""
    built = _Builder(graph, parallelism).build(bounded, commits_wait)
    by_step = dict(letters or {})
    for source, views in streams_by_source(graph).items():
        if source in by_step:
            by_step |= dict.fromkeys((node.id for node, _ in views), by_step[source])
    return with_letters(replace(built, changelogs=changelogs, complete=complete or {}), by_step)


def with_letters(plan: PhysicalPlan, letters: Mapping[str, DestinationConnector]) -> PhysicalPlan:
    """The plan with a stage for each dead-letter destination. Every stage with a step that uses this
    destination sends to it."""
    stages, edges = list(plan.stages), list(plan.edges)
    connectors = list(dict.fromkeys(letters.values()))
    ids = {connector: len(stages) + index for index, connector in enumerate(connectors)}
    for place, stage in enumerate(plan.stages):
        routes: dict[str, int] = {}
        for connector in connectors:
            steps = [step for step in stage.steps if letters.get(step) is connector]
            if steps:
                edge = Edge(len(edges), stage.id, ids[connector], "gather", (), LETTERS)
                edges.append(edge)
                routes.update(dict.fromkeys(steps, edge.id))
        stages[place] = replace(stage, letters=routes)
    for connector in connectors:
        name = connector.context.step
        letter_stage = Stage(ids[connector], name, (name,), 1, LETTERS, destination=connector)
        stages.append(letter_stage)
    return replace(plan, stages=tuple(stages), edges=tuple(edges))


def watching(plan: PhysicalPlan, reached: Mapping[str, frozenset[str]]) -> PhysicalPlan:
    """The plan that watches these sources for new fields. reached: by source, the steps that new fields
    reach."""
    steps = frozenset().union(*reached.values())
    rigid = any(
        stage.name in steps
        for stage in plan.stages
        if stage.destination is not None and stage.destination.capabilities().one_schema
    )
    return replace(plan, watched=frozenset(reached), starts_over=rigid)


class _Builder:
    def __init__(self, graph: Graph, parallelism: int) -> None:
        self.graph, self.parallelism = graph, parallelism
        self.streams = streams_by_source(graph)
        others = {node.id for views in self.streams.values() for node, _ in views[1:]}
        self.heads = [
            n
            for n in graph
            if isinstance(n, SourceNode | StatefulNode | DestinationNode) and n.id not in others
        ]
        self.stage_of = {node.id: index for index, node in enumerate(self.heads)}
        self.edges: list[Edge] = []
        # Each writer has connections of its own, so the tables of one destination share the tasks.
        ends = [node.step for node in graph if isinstance(node, DestinationNode)]
        self.tables_of = Counter(name.partition(".")[0] for name in ends)
        self.needing_time = needing_time(graph)

    def build(self, bounded: bool, commits_wait: bool) -> PhysicalPlan:
        stages = []
        for index, node in enumerate(self.heads):
            steps: list[str] = [node.step]
            body, sides = None, {}
            views = self.streams.get(node.step, ()) if isinstance(node, SourceNode) else ()
            for of_stream, view in views:
                steps.append(of_stream.id)
                body_of = self._body(index, Port(of_stream.id), of_stream.schema, steps)
                sides[view.stream.name] = body_of
            if not views and not isinstance(node, DestinationNode):
                body = self._body(index, Port(node.id), node.schema, steps)
            if isinstance(node, StatefulNode):
                read = {output for _, _, output in self.graph.consumers(node.id) if output}
                sides = {
                    output: self._body(index, Port(node.id, output), schema, steps)
                    for output, schema in node.outputs.items()
                    if output in read
                }
            stages.append(
                Stage(
                    id=index,
                    name=node.step,
                    steps=tuple(dict.fromkeys(steps)),
                    parallelism=self._subtasks(node),
                    schema=node.schema,
                    body=body,
                    source=reading(node.connector, views) if isinstance(node, SourceNode) else None,
                    operator=node.operator if isinstance(node, StatefulNode) else None,
                    destination=node.connector if isinstance(node, DestinationNode) else None,
                    sides=sides,
                    run_column=node.run_column if isinstance(node, DestinationNode) else None,
                    diverted={
                        other.id: self._destination_edge(index, other)
                        for other, _, _ in self.graph.consumers(node.id)
                        if isinstance(node, DestinationNode) and isinstance(other, DestinationNode)
                    },
                )
            )
        in_turns = with_turns(stages, self.edges)
        return PhysicalPlan(in_turns, tuple(self.edges), bounded, commits_wait)

    def _subtasks(self, node: SourceNode | StatefulNode | DestinationNode) -> int:
        if isinstance(node, StatefulNode) and not (node.operator.keys or node.operator.spread):
            return 1
        if isinstance(node, DestinationNode) and not node.connector.capabilities().parallel:
            return 1
        if isinstance(node, DestinationNode):
            return max(1, self.parallelism // self.tables_of[node.step.partition(".")[0]])
        return self.parallelism

    def _body(self, stage: int, port: Port, schema: Schema, steps: list[str]) -> Segment:
        """The tree of segments behind `port`. Its root has no operators."""
        node = self.graph.nodes[port.node]
        by_key = isinstance(node, SourceNode) and node.connector.capabilities().deletes_by_key
        segments, edges = self._behind(stage, port, schema, steps)
        if len(segments) == 1 and not edges:
            return replace(segments[0], by_key=by_key)
        children = ((None, schema, tuple(segments), tuple(edges)),)
        return Segment((), schema, None, children, by_key)

    def _behind(
        self, stage: int, port: Port, schema: Schema, steps: list[str]
    ) -> tuple[list[Segment], list[int]]:
        segments: list[Segment] = []
        edges: list[int] = []
        for node, index, output in self.graph.consumers(port.node):
            if output != port.output:
                continue
            match node:
                case RowsNode():
                    steps.extend(operator.step for operator in node.operators)
                    segments.append(self._chain(stage, node.operators, node, steps))
                case BranchNode():
                    steps.append(node.step)
                    segments.append(self._branch(stage, node, schema, steps))
                case UnionNode():
                    steps.append(node.step)
                    conform = node.conform[index]
                    if conform:
                        segments.append(self._chain(stage, conform, node, steps))
                    else:
                        more, more_edges = self._behind(stage, Port(node.id), node.schema, steps)
                        segments.extend(more)
                        edges.extend(more_edges)
                case StatefulNode():
                    operator = node.operator
                    unkeyed = "forward" if operator.spread else "gather"
                    kind = "hash" if operator.keys else unkeyed
                    keys = operator.keys_of(index)
                    edges.append(self._edge(stage, node.id, kind, keys, schema, index))
                case DestinationNode():
                    conform = node.conform[index]
                    steps.extend(operator.step for operator in conform if operator.can_fail)
                    edge = self._destination_edge(stage, node)
                    if conform:
                        child = (None, node.schema, (), (edge,))
                        segments.append(Segment(conform, node.schema, None, (child,)))
                    else:
                        edges.append(edge)
                case _:
                    raise InternalError(
                        f"a node of type {type(node).__name__} has inputs: {node.id}"
                    )
        return segments, edges

    def _chain(
        self,
        stage: int,
        operators: tuple[RowOperator, ...],
        node: RowsNode | UnionNode,
        steps: list[str],
    ) -> Segment:
        """A segment of operators. If only one segment follows, it is merged into the same query."""
        segments, edges = self._behind(stage, Port(node.id), node.schema, steps)
        if len(segments) == 1 and not edges:
            follower = segments[0]
            return Segment(
                (*operators, *follower.operators),
                follower.schema,
                follower.branch,
                follower.children,
            )
        return Segment(
            operators, node.schema, None, ((None, node.schema, tuple(segments), tuple(edges)),)
        )

    def _branch(self, stage: int, node: BranchNode, schema: Schema, steps: list[str]) -> Segment:
        children = []
        for output, out_schema in node.outputs.items():
            segments, edges = self._behind(stage, Port(node.id, output), out_schema, steps)
            children.append((output, out_schema, tuple(segments), tuple(edges)))
        return Segment((), schema, node.branch, tuple(children))

    def _destination_edge(self, stage: int, node: DestinationNode) -> int:
        capabilities = node.connector.capabilities()
        if not capabilities.parallel:
            return self._edge(stage, node.id, "gather", (), node.schema)
        if capabilities.key:
            return self._edge(stage, node.id, "hash", capabilities.key, node.schema)
        return self._edge(stage, node.id, "forward", (), node.schema)

    def _edge(
        self,
        stage: int,
        target: str,
        exchange: str,
        keys: tuple[str, ...],
        schema: Schema,
        port: int = 0,
    ) -> int:
        for edge in self.edges:
            same = edge.from_stage == stage and edge.to_stage == self.stage_of[target]
            if same and (edge.exchange, edge.keys, edge.port) == (exchange, keys, port):
                return edge.id
        timed = target in self.needing_time
        number = len(self.edges)
        edge = Edge(number, stage, self.stage_of[target], exchange, keys, schema, port, timed)
        self.edges.append(edge)
        return edge.id
