"""`dataflare plan`: the graph as it will run."""

from __future__ import annotations

import enum
import importlib
import sys
from typing import Annotated, Any

import typer

from dataflare.cli import answers, common, tables, terminal


class Format(enum.StrEnum):
    """How the plan is shown; each but `json` is a module of `planner.render`."""

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
    made = make_plan(workflow, home=home)
    view = made.view(made.count_splits(), made.listing_notes(home))
    if json or format_ is Format.JSON:
        answers.print_json(view)
        return 0
    if format_ is Format.TEXT:
        _print_text(view)
    else:
        drawn: str = importlib.import_module(f"dataflare.planner.render.{format_}").render(view)
        print(drawn, end="")
    return 0


def _print_text(view: dict[str, Any]) -> None:
    from dataflare.planner.render import text

    drawn = text.render(view, width=tables.terminal_width())
    if terminal.has_colour(sys.stdout):
        from dataflare.cli.colours import coloured_plan

        terminal.console().print(coloured_plan(drawn), soft_wrap=True)
    else:
        print(drawn, end="")
