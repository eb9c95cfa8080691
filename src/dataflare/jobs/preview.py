"""The first rows that reach a step. It writes to no destination."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from msgspec import Struct
from msgspec.structs import replace

from dataflare.checkpoint.home import home_of
from dataflare.checkpoint.runs import learned_by
from dataflare.checkpoint.store import LocalStore
from dataflare.engine.attempt import Attempt, Start
from dataflare.engine.coordinator import Identity
from dataflare.engine.metrics import JobMetrics
from dataflare.errors import PlanError, did_you_mean
from dataflare.jobs.collector import CollectorDestination
from dataflare.jobs.learning import refuse_more, with_more
from dataflare.model.new_fields import Columns, FieldsAppeared
from dataflare.planner import RULES, physical
from dataflare.planner.bind import bind_workflow
from dataflare.planner.dead_letters import LETTERS as LETTER_COLUMNS
from dataflare.planner.graph import DestinationNode, Graph, Node, Port, SourceNode
from dataflare.planner.guarantees import upstream
from dataflare.planner.new_fields import watched
from dataflare.planner.physical import watching
from dataflare.sdk.context import Policy
from dataflare.workflow.form import reserved
from dataflare.workflow.graph import looked_up

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow

END, LETTERS = reserved("_preview"), reserved("_preview_letters")
"""The destinations of a preview. No step of a file can have these names."""
_LETTERS_MAX = 10_000
_LINEAGE = "00000000-0000-4000-8000-000000000000"


def preview(
    workflow: Workflow, step: str, rows: int = 20, *, policy: Policy | None = None
) -> pl.DataFrame:
    """The first `rows` rows that leave `step` or `step.output`, or that reach a destination.

    The run stops as soon as there are enough rows. Raises PlanError (E0108) for an unknown step, and
    the errors that a run raises.
    """
    return look(workflow, step, rows, policy=policy).rows


class Failures(Struct, frozen=True):
    """The rows of one step that failed and were left out. first: where the first one stands and why it
    failed, where that is known."""

    rows: int
    first: str | None


class Look(Struct, frozen=True):
    """rows: the first ones. findings: by source before the step, facts about its data. doubts: by source,
    what looks wrong but is not an error. failures: by step, rows that were read and left out."""

    rows: pl.DataFrame
    findings: dict[str, Mapping[str, str]]
    doubts: dict[str, Sequence[str]]
    failures: dict[str, Failures]


def look(workflow: Workflow, step: str, rows: int = 20, *, policy: Policy | None = None) -> Look:
    """As `preview`, with the findings of the sources."""
    learned: Mapping[str, Columns] = learned_by(home_of(workflow.file), workflow.name)
    for replans in itertools.count(1):
        try:
            return asyncio.run(_look(workflow, step, rows, policy, learned))
        except FieldsAppeared as appeared:
            refuse_more(appeared, replans)
            learned = with_more(learned, appeared)
    raise AssertionError("unreachable")


async def _look(
    workflow: Workflow,
    step: str,
    rows: int,
    policy: Policy | None,
    learned: Mapping[str, Columns],
) -> Look:
    bound = await bind_workflow(workflow, policy=policy, learned=learned)
    port = _port(bound, step)
    stop = asyncio.Event()
    collector = CollectorDestination(rows, stop, END)
    graph = _up_to(bound, port, collector)
    for rule in RULES:
        graph = rule(graph)
    letters = CollectorDestination(_LETTERS_MAX, asyncio.Event(), LETTERS)
    plan = physical(
        graph,
        parallelism=1,
        bounded=True,
        commits_wait=True,
        changelogs=frozenset(),
        letters={each.name: letters for each in workflow.steps()},
    )
    plan = watching(plan, watched(workflow, policy, end=bound.nodes[port.node].step))
    settings = workflow.settings.model_copy(update={"parallelism": 1})
    policies = {
        each.name: (each.error_handling or settings.error_handling).on_error
        for each in workflow.steps()
    }
    # Rows that are skipped become letters here, which say why they failed; those of tables cannot.
    tables = {name for each in workflow.steps() for name in (each.name, looked_up(each))
              if each.type == "lookup"}  # fmt: skip
    policies = {
        name: "dead_letter" if on_error == "skip" and name not in tables else on_error
        for name, on_error in policies.items()
    }
    metrics = JobMetrics({each.name: each.kind for each in workflow.steps()} | {END: "destination"})
    with tempfile.TemporaryDirectory(prefix="dataflare-preview-") as folder:
        store = LocalStore(Path(folder), _LINEAGE)
        start = Start(Identity(_LINEAGE, "preview", 1, {}), 0, None, {})
        attempt = Attempt(plan, settings, start, store, {}, metrics, policies)
        await attempt.run(stop)
    sources = [node for node in graph if isinstance(node, SourceNode)]
    return Look(
        collector.frame(graph.nodes[END].schema),
        {node.step: node.connector.findings() for node in sources},
        {node.step: node.connector.doubts() for node in sources},
        _failures(metrics, letters.frame(LETTER_COLUMNS)),
    )


def _failures(metrics: JobMetrics, letters: pl.DataFrame) -> dict[str, Failures]:
    failures = {}
    for name, step in metrics.steps.items():
        if step.errors:
            first = letters.filter(pl.col("step") == name).head(1)
            reasons = first.select(
                pl.concat_str("position", "message", separator=": ", ignore_nulls=True)
            )
            failures[name] = Failures(step.errors, next(iter(reasons.to_series()), None))
    return failures


def _port(graph: Graph, step: str) -> Port:
    """The output with this name. Raises PlanError (E0108)."""
    ports: Mapping[str, Port] = {
        (f"{node.id}.{output}" if output else node.id): Port(node.id, output)
        for node in graph
        for output in node.outputs
        if "/" not in node.id
    }
    if step in ports:
        return ports[step]
    raise PlanError(
        f"there is no step '{step}'",
        code="E0108",
        notes=[f"steps: {', '.join(ports)}"],
        help=did_you_mean(step, ports),
    )


def _up_to(graph: Graph, port: Port, collector: CollectorDestination) -> Graph:
    """The part of the graph before a port, with the collector as its destination."""
    node = graph.nodes[port.node]
    nodes: dict[str, Node] = {}
    node_ids = {*upstream(graph, node.id), node.id}
    for id_, each in graph.nodes.items():
        if id_ in node_ids:
            nodes[id_] = each
    schema = node.outputs[port.output]
    if isinstance(node, DestinationNode):
        end: Node = replace(node, id=END, step=END, connector=collector)
        del nodes[node.id]
    else:
        end = DestinationNode(END, END, "preview", {None: schema}, (port,), collector, ((),))
    nodes[END] = end
    return Graph(nodes)
