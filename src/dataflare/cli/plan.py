"""`dataflare plan`: show the plan of a workflow."""

from __future__ import annotations

import enum
import importlib
import sys
from typing import Annotated, Any

import typer

from dataflare.cli import answers, common, tables, terminal


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
    json: common.Json = False,
) -> int:
    """Show the graph as it will run: fused steps, pushed-down filters, exchanges, guarantees."""
    workflow = common.read_workflow(file, param, sets, overlay, env)
    from dataflare.planner import plan as make_plan

    home = common.home_of(file)
    workflow_plan = make_plan(workflow, home=home)
    view = workflow_plan.view(workflow_plan.count_splits(), workflow_plan.listing_notes(home))
    if json or format_ is Format.JSON:
        answers.print_json(view)
        return 0
    if format_ is Format.TEXT:
        _print_text(view)
    else:
        drawing: str = importlib.import_module(f"dataflare.planner.render.{format_}").render(view)
        print(drawing, end="")
    return 0


def _print_text(view: dict[str, Any]) -> None:
    from dataflare.planner.render import text

    plan_text = text.render(view, width=tables.terminal_width())
    if terminal.has_colour(sys.stdout):
        from dataflare.cli.colours import coloured_plan

        terminal.console().print(coloured_plan(plan_text), soft_wrap=True)
    else:
        print(plan_text, end="")
