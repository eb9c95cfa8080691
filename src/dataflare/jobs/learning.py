"""Columns that a run learns: fields that came after the sample, under `schema_change: evolve`.

Always true:
- learned columns are durable before the workflow is planned again, so after a kill the resumed run and
  the next run of the lineage have the same columns;
- a run that must undo what it wrote records this durably first (`Current.starts_over`), so that it is
  done again after a kill.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dataflare.checkpoint.runs import Current
from dataflare.errors import Blame, DataError, RunError
from dataflare.model.new_fields import Columns, FieldsAppeared
from dataflare.planner.graph import Graph, Port, SourceNode
from dataflare.planner.physical import PhysicalPlan
from dataflare.sdk.destination import Marker

REPLANS_MAX = 20
"""Each time, the next 64 MB or 2 seconds of data are searched for new fields. More than this many
searches mean that the names never end."""


def refuse_more(appeared: FieldsAppeared, replans: int) -> None:
    """Raise DataError (E0546) if new fields keep coming."""
    if replans < REPLANS_MAX:
        return
    step, fields = next(iter(appeared.fields.items()))
    raise DataError(
        f"step '{step}': new fields keep coming: {', '.join(fields[:8])}; the workflow was planned again "
        f"{replans} times for earlier new fields",
        code="E0546",
        step=step,
        help="name the columns that you want in the source's 'schema', and set schema_change: ignore; "
        "or give the object whose keys are data the type json in 'schema'",
    )


def with_more(
    learned: Mapping[str, Columns], appeared: FieldsAppeared
) -> dict[str, dict[str, Any]]:
    """The learned columns with the columns of new fields added."""
    columns_by_step = {step: dict(columns) for step, columns in learned.items()}
    for step, columns in appeared.columns.items():
        columns_by_step.setdefault(step, {}).update(columns)
    return columns_by_step


def with_fields(current: Current, appeared: FieldsAppeared, plan: PhysicalPlan) -> dict[str, Any]:
    """The changes to `current` for the next attempt: its columns, and whether the run starts over."""
    return {
        "attempt": current.attempt + 1,
        "learned": with_more(current.learned, appeared),
        "starts_over": current.starts_over or plan.starts_over,
    }


def appeared_lines(appeared: FieldsAppeared, before: Graph, now: Graph) -> list[str]:
    """Lines for the user about new fields that became columns. before, now: the plans. A plan looks at all tables again, so
    it has new columns of tables whose rows have not come yet."""
    added = {step: list(fields) for step, fields in appeared.fields.items()}
    for node in now:
        if isinstance(node, SourceNode) and node.id in before.nodes and node.id not in added:
            known = before.schema(Port(node.id)).names
            names = [name for name in now.schema(Port(node.id)).names if name not in known]
            if names:
                added[node.id] = names
    return [f"step '{s}': new fields became columns: {', '.join(f)}" for s, f in added.items()]


def refuse_taking_back(markers: Mapping[str, Marker | None]) -> None:
    """Raise RunError (E0547) if a run must start over but a destination cannot remove its rows."""
    ahead = [step for step, marker in markers.items() if marker and not marker.can_rewind]
    if not ahead:
        return
    raise RunError(
        f"new fields came after rows were committed in destination '{ahead[0]}', which cannot undo them, "
        "and another destination is one file, to which columns cannot be added in the middle",
        code="E0547",
        step=ahead[0],
        blame=Blame.USER,
        help="remove the rows of this run there, and start over with --fresh and the fields in the "
        "source's 'schema'; or write a folder of files instead of one",
    )
