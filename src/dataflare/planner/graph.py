"""The logical plan: a graph of frozen nodes with schemas on the edges.

Always true: nodes are in topological order; a port names a node and one of its outputs; every node
except a destination is read by at least one other. Rules take a graph and return a graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from dataflare.errors import InternalError
from dataflare.model.types import Schema
from dataflare.operators.base import Branch, RowOperator, StatefulOperator
from dataflare.planner.run_column import with_run_column
from dataflare.sdk.destination import DestinationConnector
from dataflare.sdk.source import SourceConnector


class Port(NamedTuple):
    """An output of a node. None is its main output."""

    node: str
    output: str | None = None


class Node(Struct, frozen=True):
    """id: the step's name, with a suffix for a part of a step. step: the name in the workflow file."""

    id: str
    step: str
    type: str
    outputs: Mapping[str | None, Schema]

    @property
    def inputs(self) -> tuple[Port, ...]:
        return ()

    @property
    def schema(self) -> Schema:
        return self.outputs[None]


class SourceNode(Node, frozen=True):
    connector: SourceConnector
    pushed_filters: tuple[str, ...] = ()
    read_columns: tuple[str, ...] | None = None
    all_columns: int = 0


class RowsNode(Node, frozen=True):
    """Row operators in order. Each has the name of its step."""

    input: Port
    operators: tuple[RowOperator, ...]

    @property
    def inputs(self) -> tuple[Port, ...]:
        return (self.input,)


class BranchNode(Node, frozen=True):
    input: Port
    branch: Branch

    @property
    def inputs(self) -> tuple[Port, ...]:
        return (self.input,)


class StatefulNode(Node, frozen=True):
    """ports: what each input of the operator reads."""

    ports: tuple[Port, ...]
    operator: StatefulOperator

    @property
    def inputs(self) -> tuple[Port, ...]:
        return self.ports


class UnionNode(Node, frozen=True):
    ports: tuple[Port, ...]
    conform: tuple[tuple[RowOperator, ...], ...]

    @property
    def inputs(self) -> tuple[Port, ...]:
        return self.ports


class DestinationNode(Node, frozen=True):
    """Its schema is that of the rows that arrive. run_column: see `planner.run_column`."""

    ports: tuple[Port, ...]
    connector: DestinationConnector
    conform: tuple[tuple[RowOperator, ...], ...] = ()
    run_column: str | None = None

    @property
    def written(self) -> Schema:
        """The columns that it writes."""
        return with_run_column(self.schema, self.run_column)

    @property
    def inputs(self) -> tuple[Port, ...]:
        return self.ports


class Effect(Struct, frozen=True):
    """A change that a rule made, to show in `plan`."""

    rule: str
    effect: str


class Graph(Struct, frozen=True):
    """doubts: of the plan as it is written, by step, what looks wrong in the file but is not an error."""

    nodes: Mapping[str, Node]
    effects: tuple[Effect, ...] = field(default=())
    doubts: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def schema(self, port: Port) -> Schema:
        return self.nodes[port.node].outputs[port.output]

    def consumers(self, node: str) -> list[tuple[Node, int, str | None]]:
        """The nodes that read a node: each with the index of its input, and the output that it reads."""
        return [
            (other, index, port.output)
            for other in self
            for index, port in enumerate(other.inputs)
            if port.node == node
        ]

    def ends(self) -> bool:
        """Whether every destination gets a bounded number of rows."""
        endless: set[str] = set()
        for node in self:
            if isinstance(node, SourceNode):
                goes_on = not node.connector.capabilities().bounded
            elif isinstance(node, StatefulNode) and node.operator.finite:
                goes_on = False
            else:
                goes_on = any(port.node in endless for port in node.inputs)
            if goes_on:
                endless.add(node.id)
        return not any(isinstance(node, DestinationNode) and node.id in endless for node in self)

    def only_consumer(self, node: str) -> Node | None:
        """The only reader of a node, or None if there are several."""
        readers = self.consumers(node)
        return readers[0][0] if len(readers) == 1 else None

    def with_nodes(self, changed: Mapping[str, Node | None], *effects: Effect) -> Graph:
        """A copy with some nodes replaced. A node with the value None is left out."""
        nodes = {}
        for id_, node in self.nodes.items():
            node_or_none = changed.get(id_, node)
            if node_or_none is not None:
                nodes[id_] = node_or_none
        return Graph(nodes, (*self.effects, *effects))

    def rewired(self, old: Port, new: Port) -> Graph:
        """A copy in which the readers of `old` read `new`."""
        nodes = {id_: moved(node, old, new) for id_, node in self.nodes.items()}
        return Graph(nodes, self.effects)


N = TypeVar("N", bound=Node)


def moved(node: Node, old: Port, new: Port) -> Node:
    """The node with its inputs from `old` changed to `new`."""
    if old not in node.inputs:
        return node
    match node:
        case RowsNode() | BranchNode():
            return replace(node, input=new)
        case StatefulNode() | UnionNode() | DestinationNode():
            return replace(node, ports=tuple(new if p == old else p for p in node.ports))
    raise InternalError(f"the node {node.id} has no inputs")
