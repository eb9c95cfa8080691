"""Columns that a run learns on its way: fields that came after the sample, under `schema_change: evolve`.

Always true:
- what was learned is durable before the workflow is planned again, so a run that is killed then, its
  resume and the next run of the lineage know the same columns;
- a run that must take back what it wrote says so durably first (`Current.starts_over`), and does it
  again after a kill.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dataflare.checkpoint.runs import Current
from dataflare.errors import Blame, DataError, RunError
from dataflare.model.new_fields import Columns, FieldsAppeared
from dataflare.planner.physical import PhysicalPlan
from dataflare.sdk.destination import Marker

REPLANS_MAX = 20
"""Each is a look at 64 MB or 2 seconds of what follows, so more of them mean names without an end."""


def refuse_more(appeared: FieldsAppeared, replans: int) -> None:
    """Raise DataError (E0546) when new fields do not come to an end."""
    if replans < REPLANS_MAX:
        return
    step, fields = next(iter(appeared.fields.items()))
    raise DataError(
        f"step '{step}': new fields keep coming: {', '.join(fields[:8])}; the workflow was planned again "
        f"{replans} times for others before",
        code="E0546",
        step=step,
        help="name the columns that you want in the source's 'schema', and set schema_change: ignore; "
        "or give the object whose keys are data the type json in 'schema'",
    )


def with_more(
    learned: Mapping[str, Columns], appeared: FieldsAppeared
) -> dict[str, dict[str, Any]]:
    """What was learned, and the columns of new fields."""
    more = {step: dict(columns) for step, columns in learned.items()}
    for step, columns in appeared.columns.items():
        more.setdefault(step, {}).update(columns)
    return more


def with_fields(current: Current, appeared: FieldsAppeared, plan: PhysicalPlan) -> dict[str, Any]:
    """What changes in `current` for the next attempt: the columns, and whether the run begins again."""
    return {
        "attempt": current.attempt + 1,
        "learned": with_more(current.learned, appeared),
        "starts_over": current.starts_over or plan.starts_over,
    }


def appeared_lines(appeared: FieldsAppeared) -> list[str]:
    """For people: what became of the new fields."""
    return [
        f"step '{step}': new fields became columns: {', '.join(fields)}"
        for step, fields in appeared.fields.items()
    ]


def refuse_taking_back(markers: Mapping[str, Marker | None]) -> None:
    """Raise RunError (E0547) when a run must begin again and a destination keeps its rows."""
    ahead = [step for step, marker in markers.items() if marker and not marker.can_rewind]
    if not ahead:
        return
    raise RunError(
        f"new fields came after rows were committed in destination '{ahead[0]}', which cannot be taken "
        "back, and another destination is one file, which cannot get columns in the middle",
        code="E0547",
        step=ahead[0],
        blame=Blame.USER,
        help="remove the rows of this run there, and start over with --fresh and the fields in the "
        "source's 'schema'; or write a folder of files instead of one",
    )
