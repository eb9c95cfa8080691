"""`dataflare preview`: the first rows that reach a step, writing nowhere."""

from __future__ import annotations

from typing import Annotated

import typer

from dataflare.cli import common, complete


def preview(
    file: common.File,
    step: Annotated[
        str,
        typer.Argument(
            metavar="STEP",
            help="A step, or one output of it (router.eu).",
            show_default=False,
            autocompletion=complete.steps,
        ),
    ],
    param: common.Params = None,
    sets: common.Sets = None,
    overlay: common.Overlays = None,
    env: common.Env = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="How many rows.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> int:
    """Show the first rows that reach a step. Nothing is written anywhere."""
    workflow = common.read_workflow(file, param, sets, overlay, env)
    from dataflare.cli import frames
    from dataflare.jobs import preview as first_rows

    frame = first_rows(workflow, step, rows)
    if json:
        frames.write_ndjson(frame)
    else:
        frames.print_frame(frame)
    return 0
