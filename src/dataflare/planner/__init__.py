"""From a workflow to a plan: bind, infer, check, optimise, cut into stages, say what is promised.

Never runs anything; opens sources only to learn their schemas. Leans on `workflow`, `operators` and,
through `sdk.registry`, on the connectors. A plan is data: frozen, printable, picklable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from dataflare.checkpoint.home import home_of
from dataflare.checkpoint.runs import carried_by, learned_by
from dataflare.errors import DataFlareError
from dataflare.model.new_fields import Columns
from dataflare.planner.bind import bind_and_note, bind_workflow
from dataflare.planner.changelog import changelogs, check_changelogs, complete
from dataflare.planner.dead_letters import STEP, letter_destinations
from dataflare.planner.facts import of_source
from dataflare.planner.graph import Graph, SourceNode
from dataflare.planner.guarantees import Guarantee, commits_wait, demand, guarantees
from dataflare.planner.new_fields import watched
from dataflare.planner.physical import PhysicalPlan, physical, watching
from dataflare.planner.rules import RULES
from dataflare.planner.unavailable import refuse_unavailable
from dataflare.planner.unchecked import Unchecked, each_once
from dataflare.planner.view import view
from dataflare.planner.written_as import tell_sources
from dataflare.resilience.retry import Retries
from dataflare.sdk.context import Policy

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow

__all__ = ["RULES", "Checked", "Plan", "check", "physical", "plan", "plan_async"]


class Plan(Struct, frozen=True):
    """written: as the user wrote it; graph: optimised; stages: what will run."""

    workflow: Workflow
    written: Graph
    graph: Graph
    stages: PhysicalPlan
    guarantees: dict[str, Guarantee]

    def view(
        self,
        splits: Mapping[str, int] | None = None,
        notes: Mapping[str, Sequence[str]] | None = None,
    ) -> dict[str, Any]:
        """The plan as JSON. splits: how many the sources have that were asked, by step. notes: as
        `listing_notes`."""
        shown = view(self.workflow, self.written, self.graph, self.stages, self.guarantees)
        sources = {n.step: n.connector for n in self.graph if isinstance(n, SourceNode)}
        for node in shown["nodes"]:
            count = (splits or {}).get(node["id"])
            if count is not None:
                by = sources[node["id"]].cut_by()
                node["splits"] = {"count": count, "by": by}
                noun = "split" if count == 1 else "splits"
                node["notes"] = [*node["notes"], f"{count:,} {noun} by {by}"]
            node["notes"] = [*node["notes"], *(notes or {}).get(node["id"], ())]
        return shown

    def listing_notes(self, home: Path) -> dict[str, Sequence[str]]:
        """By source, what the next run's listing would tell, such as files that earlier runs read."""
        return asyncio.run(_listing_notes(self.graph, carried_by(home, self.workflow.name)))

    def count_splits(self) -> dict[str, int]:
        """How many splits each source has whose config asks for a cut, by step. Opens them."""
        return asyncio.run(_count_splits(self.graph))


async def _count_splits(graph: Graph) -> dict[str, int]:
    found = {}
    for node in graph:
        if isinstance(node, SourceNode) and node.connector.cut_by():
            try:
                found[node.step] = len(await node.connector.splits())
            finally:
                await node.connector.aclose()
    return found


async def _listing_notes(graph: Graph, carried: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    found: dict[str, Sequence[str]] = {}
    for node in graph:
        # Only a listing on this machine is quick and changes nothing.
        if not isinstance(node, SourceNode) or not node.connector.capabilities().local:
            continue
        if node.step in carried and not node.connector.reads_all():
            try:
                await node.connector.splits(carried[node.step])
                found[node.step] = node.connector.notes()
            except DataFlareError as error:
                found[node.step] = [f"the run will fail ({error.code}): {error.message}"]
            finally:
                await node.connector.aclose()
    return found


def plan(
    workflow: Workflow,
    *,
    home: Path | None = None,
    policy: Policy | None = None,
) -> Plan:
    """The plan of a workflow. Opens sources for their schemas. Raises what is wrong, all at once
    where it is in the file."""
    return asyncio.run(plan_async(workflow, home=home, policy=policy))


class Checked(Struct, frozen=True):
    """What `check` has seen. unchecked: what it could not check; found: what it found out about each
    source; doubts: what looks wrong in one and is no error."""

    unchecked: list[Unchecked]
    found: dict[str, dict[str, str]]
    doubts: dict[str, list[str]]


def check(
    workflow: Workflow,
    *,
    policy: Policy | None = None,
    connect: bool = False,
    inputs: bool = True,
) -> Checked:
    """Check all that can be checked without a network. connect: ask the systems too. inputs: a
    missing input file is an error, and so is a place that cannot be written."""
    refuse_unavailable(workflow)
    bound = asyncio.run(bind_and_note(workflow, policy=policy, offline=not connect, inputs=inputs))
    graph = bound.graph()
    check_changelogs(graph)
    demand(guarantees(graph), workflow.settings.guarantee)
    facts = {name: of_source(each) for name, each in bound.connectors.items()}
    return Checked(
        each_once(bound.unchecked),
        {name: each["found"] for name, each in facts.items() if each["found"]},
        {name: each["doubts"] for name, each in facts.items() if each["doubts"]},
    )


async def plan_async(
    workflow: Workflow,
    *,
    home: Path | None = None,
    policy: Policy | None = None,
    optimise: bool = True,
    retries: Retries | None = None,
    learned: Mapping[str, Columns] | None = None,
) -> Plan:
    """The same inside a running event loop. home: where local dead letters lie. optimise: False
    keeps the plan as written. retries: for the calls of the systems that are asked for schemas.
    learned: by source, the columns that earlier runs found in its rows; what `home` says, when not
    given."""
    refuse_unavailable(workflow)
    home = home or home_of(workflow.file)
    if learned is None:
        learned = learned_by(home, workflow.name)
    written = await bind_workflow(workflow, policy=policy, retries=retries, learned=learned)
    tell_sources(written)
    check_changelogs(written)
    found = guarantees(written)
    demand(found, workflow.settings.guarantee)
    graph = written
    if optimise:
        for rule in RULES:
            graph = rule(graph)
    stages = physical(
        graph,
        parallelism=workflow.settings.parallelism,
        bounded=all(n.connector.capabilities().bounded for n in graph if isinstance(n, SourceNode)),
        commits_wait=commits_wait(graph),
        changelogs=frozenset(changelogs(graph)),
        complete=complete(written),
        letters=letter_destinations(workflow, home / workflow.name / STEP, policy),
    )
    stages = watching(stages, watched(workflow, policy))
    return Plan(workflow, written, graph, stages, found)
