"""`dataflare plan`: show the plan of a workflow."""

from __future__ import annotations

import enum
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataflare.cli import answers, common, tables, terminal

if TYPE_CHECKING:
    from dataflare.planner import Plan
    from dataflare.workflow.model import Workflow


class Format(enum.StrEnum):
    """The format of the plan. Each except `json` is a module of `planner.render`."""

    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"
    JSON = "json"


def plan(
    file: common.File,
    param: common.Params = None,
    sets: common.Sets = None,
    overlay: common.Overlays = None,
    env: common.Env = None,
    format_: Annotated[
        Format, typer.Option("--format", "-f", help="What to print.", show_choices=True)
    ] = Format.TEXT,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="SAVEPOINT",
            help="Show what run --from SAVEPOINT does with the state of each step.",
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="WHERE",
            help="Show which task would run where with run --cluster WHERE, and what crosses the network.",
        ),
    ] = None,
    json: common.Json = False,
) -> int:
    """Show the graph as it will run: fused steps, pushed-down filters, exchanges, guarantees."""
    workflow = common.read_workflow(file, param, sets, overlay, env)
    from dataflare.planner import plan as make_plan

    if cluster is not None:
        return _print_placement(workflow, common.home_of(file), cluster, json)

    home = common.home_of(file)
    workflow_plan = make_plan(workflow, home=home)
    workflow = workflow_plan.workflow
    if against is not None:
        return _print_changes(workflow, workflow_plan, home, against, json)
    view = workflow_plan.view(workflow_plan.count_splits(), workflow_plan.listing_notes(home))
    if json or format_ is Format.JSON:
        answers.print_json(view)
        return 0
    if format_ is Format.TEXT:
        with answers.printing():
            _print_text(view)
    else:
        drawing: str = importlib.import_module(f"dataflare.planner.render.{format_}").render(view)
        with answers.printing():
            print(drawing, end="")
    return 0


def _print_placement(workflow: Workflow, home: Path, cluster: str, json: bool) -> int:
    """Which worker runs which task."""
    from dataflare.cluster.placement_view import placement_text
    from dataflare.jobs.on_workers import placement_on

    view = placement_on(workflow, home, cluster)
    if json:
        answers.print_json(view)
    else:
        print(placement_text(view), end="")
    return 0


def _print_changes(
    workflow: Workflow, workflow_plan: Plan, home: Path, savepoint: str, json: bool
) -> int:
    """What becomes of the state of each step in a run from a savepoint."""
    from dataflare.checkpoint.savepoints import Savepoints
    from dataflare.jobs.changes import compare
    from dataflare.jobs.lineage import newest_of, storage_of
    from dataflare.jobs.published_since import with_published

    manifest = Savepoints(storage_of(workflow, home)).read(savepoint).manifest
    stages = workflow_plan.stages
    newest = newest_of(workflow, home, manifest.lineage)
    changes = with_published(compare(workflow, stages, manifest), stages, manifest, newest)
    possible = all(change.outcome != "impossible" for change in changes)
    if json:
        steps = [change.to_json() for change in changes]
        answers.print_json({"savepoint": savepoint, "possible": possible, "steps": steps})
        return 0 if possible else 1
    rows = [(c.step + (f" (was {c.was})" if c.was else ""), c.outcome, c.detail) for c in changes]
    tables.print_table(("step", "state", "detail"), rows)
    print()
    if possible:
        print(f"dataflare run FILE --from {savepoint} is possible")
    else:
        print(f"dataflare run FILE --from {savepoint} would be refused")
    return 0 if possible else 1


def _print_text(view: dict[str, Any]) -> None:
    from dataflare.planner.render import text

    plan_text = text.render(view, width=tables.terminal_width())
    if terminal.has_colour(sys.stdout):
        from dataflare.cli.colours import coloured_plan

        terminal.console().print(coloured_plan(plan_text), soft_wrap=True)
    else:
        print(plan_text, end="")
