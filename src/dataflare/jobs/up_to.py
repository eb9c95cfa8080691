"""Run a workflow up to one of its steps, into a destination that keeps nothing outside of this process."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from msgspec import Struct
from msgspec.structs import replace

from dataflare.checkpoint.store import LocalStore
from dataflare.engine.attempt import Attempt, Start
from dataflare.engine.coordinator import Identity
from dataflare.engine.metrics import JobMetrics
from dataflare.errors import DataFlareError, PlanError, did_you_mean
from dataflare.jobs.collector import CollectorDestination
from dataflare.planner import RULES, physical
from dataflare.planner.dead_letters import LETTERS as LETTER_COLUMNS
from dataflare.planner.families import expanded, reads_many
from dataflare.planner.graph import DestinationNode, Graph, Node, Port
from dataflare.planner.guarantees import upstream
from dataflare.planner.new_fields import watched
from dataflare.planner.physical import watching
from dataflare.sdk.context import Policy
from dataflare.sdk.destination import DestinationConnector
from dataflare.workflow.form import reserved
from dataflare.workflow.graph import looked_up
from dataflare.workflow.model import DestinationStep, InputRef

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow

END, LETTERS, SEEN = reserved("_preview"), reserved("_preview_letters"), reserved("_preview_seen")
"""The destinations. No step of a file can have these names."""
_LETTERS_MAX = 10_000
_LINEAGE = "00000000-0000-4000-8000-000000000000"


class Failures(Struct, frozen=True):
    """The rows of one step that failed and were left out. first: where the first one stands and why it
    failed, where that is known."""

    rows: int
    first: str | None


class Part(Struct, frozen=True):
    """A workflow up to an output of a step. graph: with `END` as its destination."""

    workflow: Workflow
    bound: Graph
    port: Port
    graph: Graph

    @classmethod
    def of(cls, workflow: Workflow, bound: Graph, port: Port, end: DestinationConnector) -> Part:
        return cls(workflow, bound, port, _up_to(bound, port, end))

    def optimised(self) -> Graph:
        """The graph as it is run."""
        graph = self.graph
        for rule in RULES:
            graph = rule(graph)
        return graph

    async def run(
        self,
        stop: asyncio.Event,
        policy: Policy | None,
        *,
        graph: Graph | None = None,
        keep_going: bool = False,
    ) -> dict[str, Failures]:
        """Run it to its end, or until `stop` is set. The rows that failed, by step. graph: instead of `optimised`.
        keep_going: rows that fail are counted, whatever the workflow says."""
        workflow, graph = self.workflow, graph or self.optimised()
        letters = CollectorDestination(_LETTERS_MAX, asyncio.Event(), LETTERS)
        plan = physical(
            graph,
            parallelism=1,
            bounded=True,
            commits_wait=True,
            changelogs=frozenset(),
            letters={each.name: letters for each in workflow.steps()},
        )
        end = self.bound.nodes[self.port.node].step
        plan = watching(plan, watched(workflow, policy, end=end))
        settings = workflow.settings.model_copy(update={"parallelism": 1})
        policies = {
            each.name: (each.error_handling or settings.error_handling).on_error
            for each in workflow.steps()
        }
        # Rows that are skipped become letters here, which say why they failed; those of tables cannot.
        tables = {name for each in workflow.steps() for name in (each.name, looked_up(each))
                  if each.type == "lookup"}  # fmt: skip
        policies = {
            name: "dead_letter"
            if (keep_going or on_error == "skip") and name not in tables
            else on_error
            for name, on_error in policies.items()
        }
        metrics = JobMetrics(
            {each.name: each.kind for each in workflow.steps()} | {END: "destination"}
        )
        with tempfile.TemporaryDirectory(prefix="dataflare-preview-") as folder:
            store = LocalStore(Path(folder), _LINEAGE)
            start = Start(Identity(_LINEAGE, "preview", 1, {}), 0, None, {})
            attempt = Attempt(plan, settings, start, store, {}, metrics, policies)
            await attempt.run(stop)
        return _failures(metrics, letters.frame(LETTER_COLUMNS))


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


async def with_tables(workflow: Workflow, step: str, policy: Policy | None) -> Workflow:
    """The workflow with a step for each table that a source of many has; a table that the name `step` is of is read
    also where no other step reads it. Raises PlanError (E0108) for one that is not there."""
    try:
        return await expanded(_reading_too(workflow, step), policy=policy)
    except DataFlareError as error:
        if error.step != SEEN:
            raise
        raise PlanError(
            f"there is no step '{step}'", code=error.code, notes=error.notes, help=error.help
        ) from None


def _reading_too(workflow: Workflow, step: str) -> Workflow:
    name, _, table = step.partition(".")
    if not table or not any(reads_many(each) for each in workflow.sources.values()):
        return workflow
    if name not in {*workflow.sources, *workflow.transformations}:
        return workflow
    end = DestinationStep(name=SEEN, type="blackhole", inputs=(InputRef(name, table),))
    return replace(workflow, destinations={**workflow.destinations, SEEN: end})


def port_of(graph: Graph, step: str) -> Port:
    """The output with this name. Raises PlanError (E0108)."""
    ports: Mapping[str, Port] = {
        (f"{node.id}.{output}" if output else node.id): Port(node.id, output)
        for node in graph
        for output in node.outputs
        if "/" not in node.id and node.id != SEEN
    }
    if step in ports:
        return ports[step]
    of_tables = any(name.startswith(f"{step}.") for name in ports)
    raise PlanError(
        f"'{step}' stands for many tables: name one of them"
        if of_tables
        else f"there is no step '{step}'",
        code="E0108",
        notes=[f"steps: {', '.join(ports)}"],
        help=did_you_mean(step, ports),
    )


def _up_to(graph: Graph, port: Port, connector: DestinationConnector) -> Graph:
    """The part of the graph before a port, with the connector as its destination."""
    node = graph.nodes[port.node]
    nodes: dict[str, Node] = {}
    node_ids = {*upstream(graph, node.id), node.id}
    for id_, each in graph.nodes.items():
        if id_ in node_ids:
            nodes[id_] = each
    schema = node.outputs[port.output]
    if isinstance(node, DestinationNode):
        end: Node = replace(node, id=END, step=END, connector=connector)
        del nodes[node.id]
    else:
        end = DestinationNode(END, END, "preview", {None: schema}, (port,), connector, ((),))
    nodes[END] = end
    return Graph(nodes)
