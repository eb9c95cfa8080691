"""Tables that come and go where one reader gives the rows of many. Pure.

Always true: a step may be new in the middle of a run only if all rows that it gets are of tables that the run has not
read before; a step that would miss rows is never taken in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from dataflare.planner.physical import PhysicalPlan
from dataflare.planner.step_order import in_order
from dataflare.sdk.source import SourceConnector
from dataflare.workflow.model import AnyStep, InputRef, Workflow

Positions = Mapping[str, Sequence[Any]]
"""By source, the positions that a run goes on from, as JSON."""


def added_steps(workflow: Workflow, plan: PhysicalPlan, positions: Positions) -> Set[str]:
    """The steps whose rows come only from streams that begin in this run."""
    begins: set[tuple[str, str | None]] = set()
    for name, source in of_streams(plan).items():
        begun = frozenset().union(*map(source.streams_begun, positions.get(name, ())))
        begins |= {(name, stream) for stream in source.streams_known - begun}
    added: set[str] = set()

    def is_added(ref: InputRef) -> bool:
        return ref.step in added or (ref.step, ref.output) in begins

    steps: list[AnyStep] = [*in_order(workflow), *workflow.destinations.values()]
    for step in steps:
        if step.inputs and all(map(is_added, step.inputs)):
            added.add(step.name)
    return added


def removed_steps(workflow: Workflow, plan: PhysicalPlan, before: Iterable[str]) -> Set[str]:
    """Of the steps of before, those of tables that their source does not give any more."""
    streams = {stream for source in of_streams(plan).values() for stream in source.streams_known}
    families = workflow.families or {}
    gone = set()
    for name in before:
        family, dot, stream = name.partition(".")
        if dot and family in families and stream not in streams:
            sources = {ref.step.partition(".")[0] for ref in _inputs(workflow, family)}
            if all(_is_of_log(workflow, each) for each in sources):
                gone.add(name)
    return gone


def of_streams(plan: PhysicalPlan) -> dict[str, SourceConnector]:
    """The sources of which one reader gives several streams."""
    sources = {s.name: s.source for s in plan.stages if s.source is not None}
    return {name: source for name, source in sources.items() if source.streams_known}


def _inputs(workflow: Workflow, family: str) -> list[InputRef]:
    before = f"{family}."
    return [r for s in workflow.steps() if s.name.startswith(before) for r in s.inputs]


def _is_of_log(workflow: Workflow, step: str) -> bool:
    """Whether all tables of a step, written without a table, come from such sources."""
    if step in workflow.sources:
        return step in (workflow.families or {})
    return all(_is_of_log(workflow, r.step.partition(".")[0]) for r in _inputs(workflow, step))
