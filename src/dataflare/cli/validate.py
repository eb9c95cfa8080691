"""`dataflare validate`: is the file right, as far as can be known without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dataflare.cli import common, terminal
from dataflare.errors import DataFlareError


def validate(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Workflow files.", show_default=False)
    ],
    param: common.Params = None,
    sets: common.Sets = None,
    overlay: common.Overlays = None,
) -> int:
    """Check workflow files: syntax, names, types, expressions, connector config. No network."""
    worst = 0
    for file in files:
        try:
            workflow = common.read_workflow(file, param, sets, overlay)
            from dataflare.planner import check

            check(workflow)
        except DataFlareError as error:
            terminal.print_error(error)
            worst = max(worst, error.exit_status)
        else:
            steps = (workflow.sources, workflow.transformations, workflow.destinations)
            count = sum(map(len, steps))
            print(f"ok  {file}  ({workflow.name}: {count} step{'s' * (count != 1)})")
    return worst
