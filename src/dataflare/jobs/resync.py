"""Ask for a table of a source of changes to be read again."""

from __future__ import annotations

from pathlib import Path

from dataflare.checkpoint.files import workflow_folder
from dataflare.errors import RunError, WorkflowError, did_you_mean
from dataflare.planner import plan
from dataflare.planner.graph import SourceNode
from dataflare.planner.stream_views import StreamView
from dataflare.sdk import resyncs
from dataflare.workflow.model import Workflow


def resync(workflow: Workflow, home: Path, table: str) -> str:
    """Ask for it, and return the name of its source. Raises an error for a table that is not followed, and where a step behind
    it could not take its rows again."""
    sources: dict[str, SourceNode] = {}
    types: set[str] = set()
    names: dict[str, set[str]] = {}
    others: dict[str, set[str]] = {}
    for node in plan(workflow, home=home).written:
        if not isinstance(node, SourceNode) or not node.connector.capabilities().changelog:
            continue
        whole = node.connector.whole if isinstance(node.connector, StreamView) else node.connector
        called = {node.id}
        if isinstance(node.connector, StreamView):
            called |= {node.connector.stream.name, node.connector.stream.of.full}
        if whole.resyncs:
            sources[node.id], names[node.id] = node, called
        else:
            others[node.id] = called
            types.add(whole.type)
    found = [id_ for id_, each in names.items() if table in each]
    if not found and (any(table in each for each in others.values()) or (others and not sources)):
        raise RunError(
            f"'{table}' cannot be read again by itself: a source of type {' or '.join(sorted(types))} cannot do it, and one "
            "of type postgres or mysql can",
            code="E0809",
            help="empty its copies in the destination, and run with --fresh to read all tables of the workflow anew",
        )
    if len(found) != 1:
        known = ", ".join(sources) or "none"
        raise WorkflowError(
            f"'{table}' is not one table whose changes the workflow '{workflow.name}' follows and can read again",
            code="E0108",
            notes=[f"such tables: {known}"],
            help=did_you_mean(table, sources) or "name one of these",
        )
    name = found[0]
    step = next(iter(sources[name].connector.not_truncated.values()), None)
    if step is not None:
        raise RunError(
            f"'{name}' cannot be read again: step '{step}' could not take back the rows that it has",
            code="E0809",
            help="run with --fresh, with an empty destination",
        )
    resyncs.ask(workflow_folder(home, workflow.name), name)
    return name
