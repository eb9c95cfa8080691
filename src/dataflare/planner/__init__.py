"""Turn a workflow into a plan: bind, infer schemas, check, optimise, cut into stages, state guarantees.

It never runs a workflow, and opens sources only to read their schemas. It depends on `workflow`,
`operators` and, through `sdk.registry`, on connectors. A plan is frozen data that pickles.
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
from dataflare.planner.bind import Binder, bind_and_note, bind_workflow
from dataflare.planner.change_order import kept_in_front, ordered
from dataflare.planner.changelog import (
    changelogs,
    check_changelogs,
    complete,
    parted_updates,
    refuse_partial,
)
from dataflare.planner.dead_letters import STEP, letter_destinations
from dataflare.planner.declared import tell_destinations
from dataflare.planner.facts import of_source
from dataflare.planner.families import expanded
from dataflare.planner.graph import Graph, SourceNode
from dataflare.planner.guarantees import Guarantee, commits_wait, demand, guarantees
from dataflare.planner.new_fields import watched
from dataflare.planner.physical import PhysicalPlan, physical, watching
from dataflare.planner.rules import RULES
from dataflare.planner.sampled_changes import refuse_sampled_changes
from dataflare.planner.truncations import tell_sources_of_truncations
from dataflare.planner.unavailable import refuse_unavailable
from dataflare.planner.unchanged import tell_sources_of_unchanged
from dataflare.planner.unchecked import Unchecked, each_once
from dataflare.planner.view import view
from dataflare.planner.written_as import refuse_old_changes, tell_sources
from dataflare.resilience.retry import Retries
from dataflare.sdk.context import Policy

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow

__all__ = ["RULES", "Checked", "Plan", "check", "physical", "plan", "plan_async"]


class Plan(Struct, frozen=True):
    """written: the graph as the user wrote it; graph: optimised; stages: what will run."""

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
        """The plan as JSON. splits: by step, the numbers from `count_splits`. notes: from
        `listing_notes`."""
        plan_view = view(self.workflow, self.written, self.graph, self.stages, self.guarantees)
        sources = {n.step: n.connector for n in self.graph if isinstance(n, SourceNode)}
        for node in plan_view["nodes"]:
            count = (splits or {}).get(node["id"])
            if count is not None:
                by = sources[node["id"]].cut_by()
                node["splits"] = {"count": count, "by": by}
                noun = "split" if count == 1 else "splits"
                node["notes"] = [*node["notes"], f"{count:,} {noun} by {by}"]
            node["notes"] = [*node["notes"], *(notes or {}).get(node["id"], ())]
        return plan_view

    def listing_notes(self, home: Path) -> dict[str, Sequence[str]]:
        """By source, notes on what the next run will read, such as files that earlier runs have read."""
        return asyncio.run(_listing_notes(self.graph, carried_by(home, self.workflow.name)))

    def count_splits(self) -> dict[str, int]:
        """By step, the number of splits of each source whose config asks for splits. Opens the sources."""
        return asyncio.run(_count_splits(self.graph))


async def _count_splits(graph: Graph) -> dict[str, int]:
    counts = {}
    for node in graph:
        if isinstance(node, SourceNode) and node.connector.cut_by():
            try:
                counts[node.step] = len(await node.connector.splits())
            finally:
                await node.connector.aclose()
    return counts


async def _listing_notes(graph: Graph, carried: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    notes: dict[str, Sequence[str]] = {}
    for node in graph:
        # Only a listing on this machine is quick and changes nothing.
        if not isinstance(node, SourceNode) or not node.connector.capabilities().local:
            continue
        if node.step in carried and not node.connector.reads_all():
            try:
                await node.connector.splits(carried[node.step])
                notes[node.step] = node.connector.notes()
            except DataFlareError as error:
                notes[node.step] = [f"the run will fail ({error.code}): {error.message}"]
            finally:
                await node.connector.aclose()
    return notes


def plan(
    workflow: Workflow,
    *,
    home: Path | None = None,
    policy: Policy | None = None,
) -> Plan:
    """The plan of a workflow. Opens sources for their schemas. Raises all errors of the file together."""
    return asyncio.run(plan_async(workflow, home=home, policy=policy))


class Checked(Struct, frozen=True):
    """The result of `check`. unchecked: what it could not check. findings: by source, facts such as the
    delimiter. doubts: by step, what looks wrong but is not an error."""

    unchecked: list[Unchecked]
    findings: dict[str, dict[str, str]]
    doubts: dict[str, list[str]]


def check(
    workflow: Workflow,
    *,
    policy: Policy | None = None,
    connect: bool = False,
    inputs: bool = True,
) -> Checked:
    """Check everything that can be checked without a network. connect: connect to systems too. inputs: a
    missing input file and a place that cannot be written are errors."""
    refuse_unavailable(workflow)
    bound = asyncio.run(_bound(workflow, policy, connect=connect, inputs=inputs))
    workflow, graph = bound.workflow, bound.graph()
    tell_sources(graph)
    tell_sources_of_truncations(graph)
    tell_sources_of_unchanged(graph)
    refuse_old_changes(graph)
    check_changelogs(graph)
    refuse_sampled_changes(workflow, graph)
    demand(guarantees(graph), workflow.settings.guarantee)
    facts = {name: of_source(each) for name, each in bound.connectors.items()}
    doubts = {name: each["doubts"] for name, each in facts.items() if each["doubts"]}
    return Checked(
        each_once(bound.unchecked),
        {name: each["found"] for name, each in facts.items() if each["found"]},
        doubts | {name: [doubt] for name, doubt in graph.doubts.items()},
    )


async def _bound(
    workflow: Workflow, policy: Policy | None, *, connect: bool, inputs: bool
) -> Binder:
    whole = await expanded(workflow, policy=policy, offline=not connect, inputs=inputs)
    return await bind_and_note(whole, policy=policy, offline=not connect, inputs=inputs)


async def plan_async(
    workflow: Workflow,
    *,
    home: Path | None = None,
    policy: Policy | None = None,
    optimise: bool = True,
    retries: Retries | None = None,
    learned: Mapping[str, Columns] | None = None,
) -> Plan:
    """`plan` inside a running event loop. home: the folder of local dead letters. optimise: False
    keeps the plan as written. retries: for the calls that ask systems for schemas. learned: by source,
    the columns that earlier runs found in its rows; read from `home` by default."""
    refuse_unavailable(workflow)
    home = home or home_of(workflow.file)
    if learned is None:
        learned = learned_by(home, workflow.name)
    workflow = await expanded(workflow, policy=policy, retries=retries, folder=home / workflow.name)
    written = await bind_workflow(
        workflow,
        policy=policy,
        retries=retries,
        learned=learned,
        folder=home / workflow.name,
    )
    tell_sources(written)
    tell_sources_of_truncations(written)
    tell_sources_of_unchanged(written)
    tell_destinations(written)
    refuse_old_changes(written)
    check_changelogs(written)
    refuse_sampled_changes(workflow, written)
    complete_ids = complete(written)
    refuse_partial(written, complete_ids)
    levels = guarantees(written)
    demand(levels, workflow.settings.guarantee)
    graph = written
    if optimise:
        for rule in RULES:
            graph = rule(graph)
    graph = parted_updates(ordered(graph, kept_in_front(graph)))
    stages = physical(
        graph,
        parallelism=workflow.settings.parallelism,
        bounded=graph.ends(),
        commits_wait=commits_wait(graph),
        changelogs=frozenset(changelogs(graph)),
        complete=complete_ids,
        letters=letter_destinations(workflow, home / workflow.name / STEP, policy),
    )
    stages = watching(stages, watched(workflow, policy))
    return Plan(workflow, written, graph, stages, levels)
