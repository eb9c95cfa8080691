"""`dataflare check`: can every system that the workflow names be reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    json: common.Json = False,
) -> int:
    """Try every system that a workflow names, 10 s each. Nothing is written anywhere."""
    workflow = common.read_workflow(file, param, sets, overlay, env)
    from dataflare.jobs.inspect import inspect
    from dataflare.planner import check as check_file

    check_file(workflow, inputs=False)
    found = inspect(workflow)
    if json:
        made = {"workflow": workflow.name, "steps": [each.to_json() for each in found]}
        answers.print_json(made, indent=False)
    else:
        rows = [_row(each) for each in found]
        tables.print_table(("", "step", "kind", "type", "took", "found"), rows, right=("took",))
    for each in found:
        if each.error is not None:
            terminal.print_error(each.error)
    return _status(found)


def _status(found: list[Found]) -> int:
    """3 when a system could not be reached, 2 when it could and the workflow does not fit it."""
    errors = [each.error for each in found if each.error is not None]
    if any(error.blame is not Blame.USER for error in errors):
        return _UNREACHED
    return 2 if errors else 0


def _row(found: Found) -> tuple[str, ...]:
    said = ", ".join(f"{name}: {value}" for name, value in found.facts.items())
    if found.error is not None:
        said = found.error.message
    sign = "ok" if found.reached else "FAIL"
    return sign, found.step, found.kind, found.type, human.span(found.duration_s), redact(said)
