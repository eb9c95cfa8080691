"""Drop columns that nobody reads: what is not read is not evaluated, and cannot fail."""

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
    """Walk from the destinations to the sources, noting which columns of each port are read."""
    needs: Needs = {}
    changed: dict[str, Node | None] = {}
    effects: list[Effect] = []
    for node in reversed(list(graph)):
        wanted = {out: needs.get(Port(node.id, out), set()) for out in node.outputs}
        match node:
            case SourceNode():
                continue
            case RowsNode():
                incoming = graph.schema(node.input)
                operators, required, dropped = narrowed(node.operators, wanted[None], incoming)
                if dropped:
                    effects.append(Effect("drop_unread", f"{node.id}: {', '.join(dropped)}"))
                changed[node.id] = replace(node, operators=operators)
                _add(needs, node.input, required, incoming)
            case BranchNode():
                read = set().union(*wanted.values()) | node.branch.reads
                _add(needs, node.input, read, graph.schema(node.input))
            case StatefulNode() if node.operator.passes_rows:
                read = wanted[None] | set(node.operator.keys)
                _add(needs, node.input, read, graph.schema(node.input))
            case UnionNode():
                for port in node.ports:
                    _add(needs, port, wanted[None], graph.schema(port))
            case _:
                for port in node.inputs:
                    _add(needs, port, set(graph.schema(port).names), graph.schema(port))
    return _resized(graph.with_nodes(changed, *effects), needs)


def narrowed(
    operators: tuple[RowOperator, ...], wanted: set[str], incoming: Schema
) -> tuple[tuple[RowOperator, ...], set[str], list[str]]:
    """The chain without what nobody reads, the columns it then reads, and what was dropped."""
    schemas = [incoming]
    for operator in operators:
        schemas.append(operator.output_schema(schemas[-1]))
    needed = set(wanted) or set(schemas[-1].names[:1])
    kept: list[RowOperator] = []
    dropped: list[str] = []
    for operator, before in zip(reversed(operators), reversed(schemas[:-1]), strict=True):
        left = operator.only(frozenset(needed))
        if isinstance(operator, Derive):
            made = {name for name, _ in operator.columns}
            dropped.extend(sorted(made - needed))
        if left is None:
            continue
        kept.append(left)
        needed = set(left.required(frozenset(needed), before)) or set(before.names[:1])
    return tuple(reversed(kept)), needed, dropped


def _add(needs: Needs, port: Port, names: set[str], schema: Schema) -> None:
    # A batch without columns would forget how many rows it has: one is kept.
    needs.setdefault(port, set()).update((names & set(schema.names)) or set(schema.names[:1]))


def _narrow_union(node: UnionNode, names: set[str], graph: Graph) -> UnionNode:
    """A union that brings its inputs, as they now are, to the columns that are read."""
    target = node.schema.select([name for name in node.schema.names if name in names])
    conform = tuple(
        conformed(node.step, target, graph.schema(port), inserts=is_inserts(operators))
        for port, operators in zip(node.ports, node.conform, strict=True)
    )
    return replace(node, outputs={None: target}, conform=conform)


def _resized(graph: Graph, needs: Mapping[Port, set[str]]) -> Graph:
    """Recompute the schemas on the edges, now that fewer columns are made."""
    nodes: dict[str, Node] = {}
    for node in graph:
        current = Graph({**graph.nodes, **nodes})
        match node:
            case SourceNode():
                wanted = needs.get(Port(node.id), set())
                names = [name for name in node.schema.names if name in wanted]
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
                    wanted = needs.get(Port(node.id, out), set())
                    made = [n for n in schema.names if n not in graph.schema(node.input).names]
                    names = [
                        n for n in schema.names if (n in arriving or n in made) and n in wanted
                    ]
                    outputs[out] = schema.select(names)
                nodes[node.id] = replace(node, outputs=outputs)
            case StatefulNode() if node.operator.passes_rows:
                nodes[node.id] = replace(node, outputs={None: current.schema(node.input)})
            case UnionNode():
                nodes[node.id] = _narrow_union(node, needs.get(Port(node.id), set()), current)
            case _:
                nodes[node.id] = node
    return Graph(nodes, graph.effects)
