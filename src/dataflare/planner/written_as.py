"""Tell each source how the destinations write its rows, and refuse what loses rows. Pure."""

from __future__ import annotations

from dataflare.errors import PlanError
from dataflare.model.batch import INSERTS
from dataflare.operators.applied import AppliedFirst
from dataflare.operators.changes import OP_COLUMN
from dataflare.planner.changelog import arriving_kinds, row_kinds
from dataflare.planner.graph import DestinationNode, Graph, Node, SourceNode, StatefulNode
from dataflare.planner.guarantees import upstream
from dataflare.sdk.source import SourceConnector


def tell_sources(graph: Graph) -> None:
    """Set `written_as` of each source: the destinations that its rows reach, with their modes."""
    modes: dict[str, dict[str, str | None]] = {}
    for node in graph:
        if isinstance(node, DestinationNode):
            for name in upstream(graph, node.id):
                modes.setdefault(name, {})[node.id] = node.connector.mode
    for node in graph:
        if isinstance(node, SourceNode):
            node.connector.written_as = modes.get(node.id, {})


def refuse_replaced(graph: Graph) -> None:
    """Raise PlanError (E0324) for a table that each run replaces by the rows of an incremental source: the
    second run would delete what the first one wrote."""
    sources = {node.id: node for node in graph if isinstance(node, SourceNode)}
    for node in graph:
        if not isinstance(node, DestinationNode) or node.connector.mode != "overwrite":
            continue
        if node.connector.table() is None:
            continue
        for name in sorted(set(upstream(graph, node.id)) & sources.keys()):
            if sources[name].connector.is_incremental():
                raise PlanError(
                    f"destination '{node.step}' has mode overwrite, and source '{name}' is incremental: the "
                    "second run would replace all rows of the table by those that are new",
                    code="E0324",
                    step=node.step,
                    help="set mode: append, or mode: upsert with a key; or leave 'incremental' out, so that "
                    "each run reads all rows",
                )


def going_on(graph: Graph) -> dict[str, frozenset[str]]:
    """The steps that go on from their state of the run before, and their sources: each of these gives only rows that
    earlier runs have not read, unless the step goes on always."""
    sources = {node.id: node for node in graph if isinstance(node, SourceNode)}
    found: dict[str, frozenset[str]] = {}
    for node in graph:
        if not isinstance(node, StatefulNode) or not node.operator.goes_on:
            continue
        above = [sources[name] for name in upstream(graph, node.id) if name in sources]
        only_new = all(
            each.connector.carries() and not each.connector.reads_all() for each in above
        )
        if only_new or node.operator.goes_on_always:
            found[node.step] = frozenset(each.step for each in above)
    return found


def refuse_old_changes(graph: Graph) -> None:
    """Raise PlanError (E0334) for a step that gives its results when a run ends, behind changes that go on over runs:
    they take rows back that only an earlier run had, and such a row would take away an equal new one."""
    goes_on = going_on(graph)
    for node in graph:
        if not isinstance(node, StatefulNode) or not isinstance(node.operator, AppliedFirst):
            continue
        for name in upstream(graph, node.id):
            origin = graph.nodes[name]
            if origin.step in goes_on or _changes_go_on(origin):
                raise PlanError(
                    f"step '{node.step}' gives its results at the end of each run, and '{origin.step}' goes on from the "
                    "run before: it changes rows that this run does not have",
                    code="E0334",
                    step=node.step,
                    help="let each run read all rows (no new_only, no incremental), or let this step go on too: an "
                    "aggregate with emit: updates does, into mode: upsert or mirror",
                )


def _changes_go_on(node: Node) -> bool:
    if not isinstance(node, SourceNode):
        return False
    source = node.connector
    return source.capabilities().changelog and source.carries() and not source.reads_all()


def partial_results(graph: Graph) -> dict[str, str]:
    """By step, what a user should know of windows and totals over a source that gives each run only new rows."""
    sources = {node.id: node.connector for node in graph if isinstance(node, SourceNode)}
    told: dict[str, str] = {}
    goes_on = going_on(graph)
    for node in graph:
        if not isinstance(node, StatefulNode) or node.operator.passes_rows or node.operator.spread:
            continue
        if node.step in goes_on:
            continue
        for name in sorted(set(upstream(graph, node.id)) & sources.keys()):
            source = sources[name]
            if source.capabilities().bounded and source.carries() and not source.reads_all():
                told[node.step] = (
                    f"step '{node.step}': each run begins it anew, and '{name}' gives only rows that earlier runs have "
                    "not read: the result of a group or window with rows in several runs is that of one run's rows. For "
                    f"whole results {whole_results(source)}"
                )
    return told


def whole_results(source: SourceConnector) -> str:
    """How a run of a source gets all rows, by the options that it has."""
    options = type(source.config).model_fields
    ways = []
    only_new = [f"no {name}" for name in ("new_only", "incremental") if name in options]
    if only_new:
        ways.append(f"let each run read all rows ({', '.join(only_new)})")
    if "stop" in options:
        ways.append("let one run go on (no stop, no mode: batch)")
    elif "watch" in options:
        ways.append("let one run go on (watch)")
    return ", or ".join(ways) or "read all rows with --fresh"


def unread_kinds(graph: Graph) -> dict[str, str]:
    """By destination, what a user should know of plain rows with a column that looks like their kind."""
    kinds = row_kinds(graph)
    sources = {node.id: node.schema for node in graph if isinstance(node, SourceNode)}
    return {
        node.step: (
            f"destination '{node.step}' has mode {node.connector.mode}, and its rows are plain ones with a column "
            f"'{OP_COLUMN}', which is written like any other: it deletes no row. Set changelog: columns at the source "
            "if it says what to do with the row"
        )
        for node in graph
        if isinstance(node, DestinationNode)
        and node.connector.mode in ("mirror", "upsert")
        and arriving_kinds(kinds, node) == INSERTS
        and any(OP_COLUMN in graph.schema(port) for port in node.ports)
        and any(OP_COLUMN in sources[name] for name in upstream(graph, node.id) if name in sources)
    }
