"""The row kinds of each node and the destinations that receive all rows; refuse steps that would give wrong
rows for a changelog. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from msgspec.structs import replace

from dataflare.errors import PlanError
from dataflare.expr import NOW_COLUMN, ROWKEY_COLUMN
from dataflare.model.batch import CHANGES, INSERTS, UPDATES, Kinds, RowKind
from dataflare.model.types import Schema
from dataflare.operators.limit import Limit
from dataflare.operators.lookup import Lookup
from dataflare.operators.parted_updates import PartedUpdates
from dataflare.operators.primitives import after_parting, conformed
from dataflare.operators.sample import Sample
from dataflare.operators.stamp import Stamp
from dataflare.planner.change_keys import key_of_rows
from dataflare.planner.graph import (
    BranchNode,
    DestinationNode,
    Graph,
    Node,
    Port,
    RowsNode,
    SourceNode,
    StatefulNode,
    UnionNode,
)
from dataflare.planner.guarantees import upstream


def row_kinds(graph: Graph) -> dict[str, Kinds]:
    """By node, the kinds of its rows: of those that leave it, or that reach a destination. Also by `step.output`,
    where an output has other kinds than the main one. Rows that are inserts only have no column of kinds."""
    kinds: dict[str, Kinds] = {}
    add_kinds(kinds, graph)
    return kinds


def add_kinds(kinds: dict[str, Kinds], nodes: Iterable[Node]) -> None:
    """Add the kinds of nodes, in topological order, to those of the nodes before them."""
    for node in nodes:
        if node.id in kinds:
            continue
        arriving = arriving_kinds(kinds, node)
        match node:
            case SourceNode():
                leaving = CHANGES if node.connector.capabilities().changelog else INSERTS
            case RowsNode():
                leaving = arriving
                for operator in node.operators:
                    leaving = operator.makes(leaving)
            case StatefulNode():
                leaving = node.operator.makes(arriving)
                outputs = (output for output in node.outputs if output is not None)
                kinds.update({f"{node.id}.{output}": INSERTS for output in outputs})
            case BranchNode():
                leaving = after_parting(arriving)
            case _:
                leaving = arriving
        kinds[node.id] = leaving


def kinds_of_port(kinds: Mapping[str, Kinds], port: Port) -> Kinds:
    """The kinds of the rows of an output."""
    return kinds.get(f"{port.node}.{port.output}", kinds[port.node])


def arriving_kinds(kinds: Mapping[str, Kinds], node: Node) -> Kinds:
    """The kinds of the rows that reach a node."""
    if len(node.inputs) == 1:
        return kinds_of_port(kinds, node.inputs[0])
    return frozenset().union(*(kinds_of_port(kinds, port) for port in node.inputs))


def input_kinds(
    kinds: dict[str, Kinds], nodes: Mapping[str, Node], inputs: Iterable[Port]
) -> tuple[Kinds, ...]:
    """The row kinds of each input of a step. kinds: those of the nodes so far, to which others are added."""
    add_kinds(kinds, nodes.values())
    return tuple(kinds_of_port(kinds, port) for port in inputs)


def changelogs(graph: Graph) -> set[str]:
    """The ids of nodes whose rows have row kinds."""
    kinds = row_kinds(graph)
    return {node.id for node in graph if kinds[node.id] != INSERTS}


def shown_kinds(kinds: Kinds) -> str:
    """Kinds in words: 'inserts, updates and deletes'."""
    words = [
        word
        for word, is_there in (
            ("inserts", RowKind.INSERT in kinds),
            ("updates", bool(kinds & UPDATES)),
            ("deletes", RowKind.DELETE in kinds),
        )
        if is_there
    ]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def complete(graph: Graph) -> dict[str, frozenset[str]]:
    """The destinations that receive every row of their sources, and the steps that these rows depend on.
    At the end of a run in which none of these steps left out a row, a row that did not arrive is known to
    be deleted."""
    # Rows of a destination may go to another one while its system is away: neither has all of them.
    partial = {
        id_
        for node in graph
        for port in node.inputs
        if isinstance(graph.nodes[port.node], DestinationNode)
        for id_ in (node.id, port.node)
    }
    steps: dict[str, frozenset[str]] = {}
    for node in graph:
        steps[node.id] = frozenset({node.step, node.id, *_tables(node)}).union(
            *(steps[port.node] for port in node.inputs)
        )
        if _leaves_out(node) or any(port.node in partial for port in node.inputs):
            partial.add(node.id)
    return {
        node.id: steps[node.id]
        for node in graph
        if isinstance(node, DestinationNode) and node.id not in partial
    }


def _tables(node: Node) -> list[str]:
    """The tables that a node looks up in."""
    operators = node.operators if isinstance(node, RowsNode) else ()
    return [each.table.name for each in operators if isinstance(each, Lookup)]


def refuse_partial(graph: Graph, complete_ids: Container[str]) -> None:
    """Raise PlanError (E0324) for a destination that would delete the rows which a run does not read."""
    for node in graph:
        if not isinstance(node, DestinationNode) or node.id in complete_ids:
            continue
        if node.connector.capabilities().all_rows:
            raise PlanError(
                f"step '{node.step}' has mode mirror and is one file, which is written anew, and the run does "
                "not read all rows of its source",
                code="E0324",
                step=node.step,
                help="read the source as a whole (no incremental, new_only, limit or sample), or mirror it to "
                "a database, which keeps the other rows",
            )


def _leaves_out(node: Node) -> bool:
    """Whether a node leaves out rows without a condition that says which."""
    match node:
        case SourceNode():
            capabilities = node.connector.capabilities()
            whole = capabilities.bounded and not capabilities.changelog
            # A replay's source has the rows of dead letters only.
            return node.step.startswith("_replay_") or not whole or not node.connector.reads_all()
        case RowsNode():
            return any(isinstance(each, Sample) for each in node.operators)
        case StatefulNode():
            return isinstance(node.operator, Limit)
    return False


def joined_changelogs(graph: Graph) -> Graph:
    """The graph in which plain rows that join a changelog, in a union or a destination, are marked as
    inserts."""
    kinds = row_kinds(graph)
    changed: dict[str, Node | None] = {}
    for node in graph:
        if isinstance(node, UnionNode | DestinationNode) and kinds[node.id] != INSERTS:
            conform = tuple(
                operators
                if kinds_of_port(kinds, port) != INSERTS
                else conformed(node.step, node.schema, graph.schema(port), inserts=True)
                for port, operators in zip(node.ports, node.conform, strict=True)
            )
            changed[node.id] = replace(node, conform=conform)
    return graph.with_nodes(changed)


def parted_updates(graph: Graph) -> Graph:
    """The graph in which an update that changes a key is a delete and an insert before rows go to tasks by this
    key."""
    kinds = row_kinds(graph)
    nodes: dict[str, Node] = {}
    for node in graph:
        if isinstance(node, StatefulNode):
            ports = list(node.ports)
            for place, port in enumerate(ports):
                keys = node.operator.keys_of(place)
                if keys and kinds_of_port(kinds, port) & UPDATES:
                    id_ = f"{node.id}/parted{place}"
                    schema: dict[str | None, Schema] = {None: graph.schema(port)}
                    parted = (PartedUpdates(node.step, keys),)
                    nodes[id_] = RowsNode(id_, node.step, node.type, schema, port, parted)
                    ports[place] = Port(id_)
            node = replace(node, ports=tuple(ports))
        elif isinstance(node, DestinationNode):
            capabilities = node.connector.capabilities()
            key = tuple(capabilities.key) if capabilities.parallel else ()
            if not key and capabilities.parts_keys:
                key = key_of_rows(graph, kinds, node)
            if key and kinds[node.id] & UPDATES:
                parted = (PartedUpdates(node.step, key),)
                node = replace(node, conform=tuple((*each, *parted) for each in node.conform))
        nodes[node.id] = node
    return Graph(nodes, graph.effects)


def check_changelogs(graph: Graph) -> None:
    """Raise PlanError (E0315) for a step that would give wrong rows for the kinds that reach it."""
    kinds = row_kinds(graph)
    for node in graph:
        arriving = arriving_kinds(kinds, node)
        if isinstance(node, SourceNode) or arriving == INSERTS:
            continue
        reason = _trouble(node, arriving)
        if reason is None:
            continue
        before = [graph.nodes[id_] for id_ in upstream(graph, node.id)]
        makers = [each.step for each in before if _makes_changes(each)]
        raise PlanError(
            f"step '{node.step}' receives a changelog (rows with {shown_kinds(arriving)}), {reason}",
            code="E0315",
            step=node.step,
            notes=[f"the changelog comes from: {', '.join(makers)}"],
            help=_way_out(node),
        )


_VOLATILE = frozenset({NOW_COLUMN, ROWKEY_COLUMN})


def _trouble(node: Node, arriving: Kinds) -> str | None:
    match node:
        case RowsNode():
            for operator in node.operators:
                if not arriving <= operator.accepts:
                    return (
                        f"and {operator.describe()} cannot retract its results{operator.no_changes}"
                    )
                if isinstance(operator, Stamp):
                    # Whether a time is too far ahead is asked of the clock, and then the run says so.
                    if operator.time.needs:
                        return "and its event time changes from call to call"
                elif operator.needs():
                    return "and one of its expressions changes from call to call"
                arriving = operator.makes(arriving)
        case BranchNode():
            if node.branch.reads & _VOLATILE:
                return "and one of its expressions changes from call to call"
        case StatefulNode():
            if not arriving <= node.operator.accepts:
                return f"and {node.operator.describe()} cannot retract{node.operator.no_changes}"
        case DestinationNode():
            if not node.connector.capabilities().changelog:
                mode = f"mode {node.connector.mode}" if node.connector.mode else f"type {node.type}"
                mode = f"type {node.type} in {mode}" if mode == "mode mirror" else mode
                return f"which {mode} does not take"
    return None


def _way_out(node: Node) -> str:
    if not isinstance(node, DestinationNode):
        return "read the source without changes, or leave the step out"
    with_option = node.connector.capabilities().changelog_with
    if with_option:
        return f"set {with_option}"
    if node.connector.mode == "mirror":
        return "write to a table of a database with mode: mirror, which takes them, or read the source without changes"
    return "write to a table of a database with mode: upsert or mirror, or read the source without changes"


def _makes_changes(node: Node) -> bool:
    if isinstance(node, SourceNode):
        return node.connector.capabilities().changelog
    return isinstance(node, StatefulNode) and node.operator.makes(INSERTS) != INSERTS
