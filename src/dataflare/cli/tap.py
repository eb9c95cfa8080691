"""`dataflare tap`: look at rows of a run while it runs."""

from __future__ import annotations

import math
import sys
from typing import Annotated

import orjson
import typer

from dataflare.cli import common, living
from dataflare.cli.status import File, RunningWorkflow
from dataflare.cli.usage import bad_usage
from dataflare.formats.visible import visible_json


def tap(
    workflow: RunningWorkflow,
    step: Annotated[
        str,
        typer.Argument(
            metavar="STEP", help="The step that the rows go into, or come from.", show_default=False
        ),
    ],
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="EXPRESSION", help="Only rows for which this is true."),
    ] = None,
    rate: Annotated[
        float, typer.Option("--rate", min=0.01, max=10_000, help="How many rows a second at most.")
    ] = 10.0,
    rows: Annotated[
        int | None, typer.Option("--rows", "-n", min=1, help="End after so many rows.")
    ] = None,
    file: File = None,
) -> int:
    """Print some of the rows on their way, one JSON object a line. The run and its results stay as they are."""
    if math.isnan(rate):
        raise bad_usage("--rate needs a number from 0.01 to 10000, not nan", "dataflare tap")
    folder = common.workflow_folder(workflow, file)
    left = rows
    for answer in living.answers_of(folder, "tap", step=step, where=where, per_s=rate):
        if "row" not in answer:
            continue
        sys.stdout.write(visible_json(orjson.dumps(answer["row"]).decode()) + "\n")
        sys.stdout.flush()
        if left is not None:
            left -= 1
            if left == 0:
                break
    return 0
