"""Which edges a look at a running step means, and what it may show of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import polars as pl

from dataflare.engine.taps import RATES, Tap
from dataflare.errors import Blame, RunError
from dataflare.expr import check_condition
from dataflare.jobs.preview import with_words
from dataflare.model.types import RESERVED
from dataflare.planner import Plan
from dataflare.planner.column_lineage import unmasked
from dataflare.planner.physical import Edge, PhysicalPlan

HIDDEN = "***"


def tap_of(stages: PhysicalPlan, plan: Plan, step: str, where: str | None, per_s: float) -> Tap:
    """A look at what goes into a step, or out of the last of steps that run as one. stages: those that run now. Raises RunError
    (E0108) for a step whose rows cannot be seen, and for a condition that reads a hidden column, and ExpressionError for a
    wrong condition."""
    edges = _edges(stages, step)
    schema = edges[0].schema
    hidden = _hidden(stages, plan, edges)
    condition = check_condition(where, schema, step=step) if where is not None else None
    if condition is not None and condition.columns & hidden:
        names = ", ".join(sorted(condition.columns & hidden))
        raise RunError(
            f"rows cannot be chosen by a column that the workflow masks: {names}",
            code="E0108",
            blame=Blame.USER,
            help="use other columns in --where",
        )
    return Tap([edge.id for edge in edges], per_s, condition, partial(_shown, hidden))


def rate_of(asked: object) -> float:
    """The rate that a caller asks for. Raises RunError (E0404) for one that a look cannot have."""
    low, high = RATES
    is_number = isinstance(asked, int | float) and not isinstance(asked, bool)
    if not is_number or not low <= asked <= high:  # type: ignore[operator]
        raise RunError(
            f"a look shows from {low:g} to {high:,.0f} rows a second, not {str(asked)[:40]}",
            code="E0404",
            blame=Blame.USER,
            help="choose another rate",
        )
    return float(asked)  # type: ignore[arg-type]


def _edges(plan: PhysicalPlan, step: str) -> list[Edge]:
    """Those into a step that begins a stage; else those out of a stage that ends with the step."""
    letters = {edge for stage in plan.stages for edge in stage.letters.values()}
    edges = [edge for edge in plan.edges if edge.id not in letters]
    into = {s.name: [e for e in edges if e.to_stage == s.id] for s in plan.stages}
    found = into.get(step) or [
        edge
        for stage in plan.stages
        if stage.steps[-1] == step
        for edge in edges
        if edge.from_stage == stage.id
    ]
    if not found:
        names = ", ".join(sorted(name for name, those in into.items() if those))
        raise RunError(
            f"the rows of '{step}' cannot be seen: it runs as one with other steps, or there is no such step",
            code="E0108",
            blame=Blame.USER,
            help=f"look at the rows that go into one of: {names}",
        )
    return [edge for edge in found if edge.schema == found[0].schema]


def _hidden(stages: PhysicalPlan, plan: Plan, edges: Sequence[Edge]) -> frozenset[str]:
    """The columns of the edges whose values some `mask` step of the workflow hides further on, or on another branch."""
    masks = {step.name for step in plan.workflow.transformations.values() if step.type == "mask"}
    if not masks:
        return frozenset()
    open_columns = unmasked(plan.written, plan.graph, masks)
    names = {stage.id: stage.name for stage in stages.stages}
    found: set[str] = set()
    for edge in edges:
        node = plan.graph.nodes.get(names[edge.to_stage])
        inputs = node.inputs if node is not None else ()
        if edge.port < len(inputs) and inputs[edge.port] in open_columns:
            found |= open_columns[inputs[edge.port]]
        else:
            found |= set(edge.schema.names)  # it is not known where they come from
    return frozenset(found)


def _shown(hidden: frozenset[str], frame: pl.DataFrame) -> pl.DataFrame:
    names = [name for name in frame.columns if name in hidden]
    shown = with_words(frame.with_columns(pl.lit(HIDDEN).alias(name) for name in names))
    return shown.drop(name for name in shown.columns if name.startswith(RESERVED))
