"""A window step that is changed between two checkpoints: the state goes on as a run from a savepoint uses it."""

from __future__ import annotations

from typing import Any

from changed_steps import changed
from window_runs import SCHEMA, WindowRun, bound

from dataflare.jobs.changes import StepChange
from dataflare.operators.base import Bound, StatefulOperator
from dataflare.state.layout import Layout


def layout_of(bound: Bound) -> tuple[StatefulOperator, Layout]:
    """The operator of a window step and the layout of its state."""
    operator = bound.stateful
    assert operator is not None
    schema = SCHEMA
    for each in bound.operators:
        schema = each.output_schema(schema)
    layout = operator.layout([schema])
    assert layout is not None
    return operator, layout


def change_of(run: WindowRun, config: dict[str, Any], subtasks: int) -> StepChange:
    """Go on from the last checkpoint of a run with another config, unless that is impossible."""
    new = bound(config)
    shares, given = run.checkpoint
    change, moved = changed(layout_of(run.bound), layout_of(new), shares)
    if change.outcome == "impossible":
        return change
    assert new.stateful is not None
    run.bound, run.operator = new, new.stateful
    run.checkpoint = moved, given
    run.restart(subtasks)
    return change
