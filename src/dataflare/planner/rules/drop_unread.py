"""Drop columns that no step reads. A dropped column is not computed, so it cannot fail."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from dataflare.model.types import Schema
from dataflare.operators.base import RowOperator
from dataflare.operators.primitives import Derive, conformed, is_inserts
from dataflare.planner.graph import (
    BranchNode,
    Effect,
    Graph,
    Node,
    Port,
    RowsNode,
    SourceNode,
    StatefulNode,
    UnionNode,
)

Needs = dict[Port, set[str]]


def drop_unread(graph: Graph) -> Graph:
    """Walk from the destinations to the sources, and record which columns of each port are read."""
    needs: Needs = {}
    changed: dict[str, Node | None] = {}
    effects: list[Effect] = []
    for node in reversed(list(graph)):
        names_read = {out: needs.get(Port(node.id, out), set()) for out in node.outputs}
        match node:
            case SourceNode():
                continue
            case RowsNode():
                incoming = graph.schema(node.input)
                operators, required, dropped = narrowed(node.operators, names_read[None], incoming)
                if dropped:
                    effects.append(Effect("drop_unread", f"{node.id}: {', '.join(dropped)}"))
                changed[node.id] = replace(node, operators=operators)
                _add(needs, node.input, required, incoming)
            case BranchNode():
                needed = set().union(*names_read.values()) | node.branch.reads
                _add(needs, node.input, needed, graph.schema(node.input))
            case StatefulNode() if node.operator.passes_rows:
                needed = names_read[None] | set(node.operator.keys)
                for port in node.ports:
                    _add(needs, port, needed, graph.schema(port))
            case UnionNode():
                for port in node.ports:
                    _add(needs, port, names_read[None], graph.schema(port))
            case _:
                for port in node.inputs:
                    _add(needs, port, set(graph.schema(port).names), graph.schema(port))
    return _resized(graph.with_nodes(changed, *effects), needs)


def narrowed(
    operators: tuple[RowOperator, ...], names_read: set[str], incoming: Schema
) -> tuple[tuple[RowOperator, ...], set[str], list[str]]:
    """The chain without unread columns, the columns that it then reads, and the dropped columns."""
    schemas = [incoming]
    for operator in operators:
        schemas.append(operator.output_schema(schemas[-1]))
    needed = set(names_read) or set(schemas[-1].names[:1])
    narrowed_operators: list[RowOperator] = []
    dropped: list[str] = []
    for operator, before in zip(reversed(operators), reversed(schemas[:-1]), strict=True):
        narrower = operator.only(frozenset(needed))
        if isinstance(operator, Derive):
            derived = {name for name, _ in operator.columns}
            dropped.extend(sorted(derived - needed))
        if narrower is None:
            continue
        narrowed_operators.append(narrower)
        needed = set(narrower.required(frozenset(needed), before)) or set(before.names[:1])
    return tuple(reversed(narrowed_operators)), needed, dropped


def _add(needs: Needs, port: Port, names: set[str], schema: Schema) -> None:
    # A batch without columns has no number of rows. So one column is kept.
    needs.setdefault(port, set()).update((names & set(schema.names)) or set(schema.names[:1]))


def _narrow_union(node: UnionNode, names: set[str], graph: Graph) -> UnionNode:
    """The union whose output has only the columns that are read."""
    target = node.schema.select([name for name in node.schema.names if name in names])
    conform = tuple(
        conformed(node.step, target, graph.schema(port), inserts=is_inserts(operators))
        for port, operators in zip(node.ports, node.conform, strict=True)
    )
    return replace(node, outputs={None: target}, conform=conform)


def _resized(graph: Graph, needs: Mapping[Port, set[str]]) -> Graph:
    """Recompute the schemas on the edges after columns were dropped."""
    nodes: dict[str, Node] = {}
    for node in graph:
        current = Graph({**graph.nodes, **nodes})
        match node:
            case SourceNode():
                names_read = needs.get(Port(node.id), set())
                names = [name for name in node.schema.names if name in names_read]
                nodes[node.id] = replace(
                    node, outputs={None: node.schema.select(names)}, all_columns=len(node.schema)
                )
            case RowsNode():
                schema = current.schema(node.input)
                for operator in node.operators:
                    schema = operator.output_schema(schema)
                nodes[node.id] = replace(node, outputs={None: schema})
            case BranchNode():
                arriving = current.schema(node.input)
                outputs: dict[str | None, Schema] = {}
                for out, schema in node.outputs.items():
                    names_read = needs.get(Port(node.id, out), set())
                    added = [n for n in schema.names if n not in graph.schema(node.input).names]
                    names = [
                        n for n in schema.names if (n in arriving or n in added) and n in names_read
                    ]
                    outputs[out] = schema.select(names)
                nodes[node.id] = replace(node, outputs=outputs)
            case StatefulNode() if node.operator.passes_rows:
                nodes[node.id] = replace(node, outputs={None: current.schema(node.ports[0])})
            case UnionNode():
                nodes[node.id] = _narrow_union(node, needs.get(Port(node.id), set()), current)
            case _:
                nodes[node.id] = node
    return Graph(nodes, graph.effects)
