"""`dataflare lineage`: which columns of the sources each column of a destination comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from dataflare.cli import answers, common, tables
from dataflare.errors import WorkflowError, nearest

if TYPE_CHECKING:
    from dataflare.planner.column_lineage import Column, Origins


def lineage(
    file: common.File,
    param: common.Params = None,
    sets: common.Sets = None,
    overlay: common.Overlays = None,
    env: common.Env = None,
    column: Annotated[
        str | None,
        typer.Option("--column", metavar="DESTINATION.COLUMN", help="Only this column."),
    ] = None,
    json: common.Json = False,
) -> int:
    """Show from which columns of the sources each column of a destination comes. Nothing is run."""
    workflow = common.read_workflow(file, param, sets, overlay, env)
    from dataflare.planner import plan
    from dataflare.planner.column_lineage import column_lineage

    found: Mapping[str, dict[str, Origins]] = column_lineage(plan(workflow).written)
    if column is not None:
        found = _only(found, column)
    if json:
        made = {
            destination: {
                name: {
                    "values": _names(origins.values),
                    "conditions": _names(origins.conditions),
                }
                for name, origins in columns.items()
            }
            for destination, columns in found.items()
        }
        answers.print_json({"workflow": workflow.name, "columns": made}, indent=False)
        return 0
    rows = [
        (
            f"{destination}.{name}",
            ", ".join(_names(origins.values)) or "(no column)",
            ", ".join(_names(origins.conditions)),
        )
        for destination, columns in found.items()
        for name, origins in columns.items()
    ]
    tables.print_table(("column", "is made of", "rows are decided by"), rows)
    return 0


def _names(columns: Iterable[Column]) -> list[str]:
    return sorted(f"{step}.{name}" for step, name in columns)


def _only(found: Mapping[str, dict[str, Origins]], column: str) -> Mapping[str, dict[str, Origins]]:
    for destination, columns in found.items():
        name = column.removeprefix(f"{destination}.")
        if name != column and name in columns:
            return {destination: {name: columns[name]}}
    known = [f"{destination}.{name}" for destination, columns in found.items() for name in columns]
    near = nearest(column, known)
    raise WorkflowError(
        f"no destination has a column '{column}'",
        code="E0108",
        help=f"did you mean '{near}'?" if near else "give a destination and a column: out.amount",
    )
