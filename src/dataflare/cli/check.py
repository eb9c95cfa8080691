"""`dataflare check`: connect to every system of a workflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dataflare.cli import answers, common, human, tables, terminal
from dataflare.errors import Blame
from dataflare.security.redact import redact

if TYPE_CHECKING:
    from dataflare.jobs.inspect import Found

_UNREACHED = 3


def check(
    file: common.File,
    param: common.Params = None,
    sets: common.Sets = None,
    overlay: common.Overlays = None,
    env: common.Env = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="WHERE",
            help="Look at the workers too, as for run --cluster WHERE: their versions, the shared folder, the network between them.",
        ),
    ] = None,
    json: common.Json = False,
) -> int:
    """Connect to every system of a workflow, with a timeout of 10 s each. Nothing is written."""
    workflow = common.read_workflow(file, param, sets, overlay, env)
    from dataflare.jobs.inspect import inspect
    from dataflare.planner import check as check_file

    check_file(workflow, inputs=False)
    systems = inspect(workflow)
    if cluster is not None:
        from dataflare.jobs.on_workers import found_at

        systems = [*systems, found_at(workflow, common.home_of(file), cluster)]
    if json:
        value = {"workflow": workflow.name, "steps": [each.to_json() for each in systems]}
        answers.print_json(value, indent=False)
    else:
        rows = [_row(each) for each in systems]
        tables.print_table(("", "step", "kind", "type", "took", "found"), rows, right=("took",))
    for each in systems:
        if each.error is not None:
            terminal.print_error(each.error)
    return _status(systems)


def _status(systems: list[Found]) -> int:
    """3 if a system cannot be reached, 2 if the workflow does not fit a system, else 0."""
    errors = [each.error for each in systems if each.error is not None]
    if any(error.blame is not Blame.USER for error in errors):
        return _UNREACHED
    return 2 if errors else 0


def _row(system: Found) -> tuple[str, ...]:
    text = ", ".join(f"{name}: {value}" for name, value in system.facts.items())
    if system.error is not None:
        text = system.error.message
    sign = "ok" if system.reached else "FAIL"
    return sign, system.step, system.kind, system.type, human.span(system.duration_s), redact(text)
