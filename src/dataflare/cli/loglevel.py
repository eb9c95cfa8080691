"""`dataflare loglevel`: how much a running workflow writes into its log."""

from __future__ import annotations

from typing import Annotated

import typer

from dataflare.cli import common, living
from dataflare.cli.status import File, RunningWorkflow
from dataflare.observability import logs


def loglevel(
    workflow: RunningWorkflow,
    level: Annotated[
        str | None,
        typer.Argument(
            metavar="[LEVEL]", help="debug, info, warning or error.", show_default=False
        ),
    ] = None,
    component: Annotated[
        str,
        typer.Option(
            "--component",
            metavar="NAME",
            help="Only this part: run, checkpoint, calls, alerts, otlp or openlineage. Else all that have no level of their own.",
        ),
    ] = "",
    file: File = None,
) -> int:
    """Change how much a running workflow writes into its log, or show it."""
    logs.check_component(component)
    folder = common.workflow_folder(workflow, file)
    for answer in living.answers_of(folder, "level", component=component, level=level):
        for name, at in answer["levels"].items():
            print(f"{name or 'all'}: {at}")
    return 0
