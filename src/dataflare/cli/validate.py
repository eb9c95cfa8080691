"""`dataflare validate`: check a file, as far as this is possible without a network.

Always true: everything that could not be checked is listed with the reason, so that the meaning of `ok`
is exact.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import Struct, field

from dataflare.cli import answers, common, complete, terminal
from dataflare.errors import DataFlareError

if TYPE_CHECKING:
    from dataflare.planner import Checked


class Outcome(Struct):
    """The result for one file. workflow, steps: its name and its number of steps, after it was read. unheard: a
    warning about its alerts."""

    file: Path
    workflow: str | None = None
    steps: int = 0
    checked: Checked | None = None
    unheard: str | None = None
    errors: list[DataFlareError] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        checked = self.checked
        return {
            "file": str(self.file),
            "workflow": self.workflow,
            "ok": not self.errors,
            "steps": self.steps,
            "errors": [error.to_json() for error in self.errors],
            "warnings": _doubts(self),
            "unchecked": [each.to_json() for each in checked.unchecked] if checked else [],
            "found": checked.findings if checked else {},
        }


def validate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="Workflow files.",
            show_default=False,
            autocompletion=complete.files,
        ),
    ],
    param: common.Params = None,
    sets: common.Sets = None,
    overlay: common.Overlays = None,
    env: common.Env = None,
    connect: Annotated[
        bool, typer.Option("--connect", help="Connect to systems too, for checks that need them.")
    ] = False,
    json: common.Json = False,
) -> int:
    """Check workflow files: syntax, names, types, expressions, connector config. No network.

    It lists what could not be checked, and why.
    """
    outcomes, worst = [], 0
    for file in files:
        outcome = Outcome(file)
        outcomes.append(outcome)
        try:
            workflow = common.read_workflow(file, param, sets, overlay, env)
            outcome.workflow, outcome.steps = workflow.name, len(list(workflow.steps()))
            from dataflare.planner import check
            from dataflare.workflow.alerts import unheard

            outcome.checked = check(workflow, connect=connect)
            outcome.unheard = unheard(workflow)
        except DataFlareError as error:
            outcome.errors = error.each
            worst = max(worst, error.exit_status)
            terminal.print_error(error)
        else:
            _print(outcome, json=json)
    if json:
        answers.print_json(_answer(outcomes), indent=False)
    return worst


def _answer(outcomes: list[Outcome]) -> dict[str, Any]:
    errors = [error.to_json() for outcome in outcomes for error in outcome.errors]
    return {
        "ok": not errors,
        "files": [outcome.to_json() for outcome in outcomes],
        "error": errors[0] if errors else None,
        "errors": errors,
    }


def _print(outcome: Outcome, *, json: bool) -> None:
    """Print a line for the file, and a line for each finding and for each check that was not possible."""
    for doubt in _doubts(outcome):
        terminal.print_warning(doubt)
    if json or outcome.checked is None:
        return
    steps = f"{outcome.steps} step{'s' * (outcome.steps != 1)}"
    print(f"ok  {outcome.file}  ({outcome.workflow}: {steps})")
    for name, findings in outcome.checked.findings.items():
        print(f"    {name}: " + ", ".join(f"{fact} {text}" for fact, text in findings.items()))
    for each in outcome.checked.unchecked:
        print(f"    not checked: {each.what}: {each.why}")


def _doubts(outcome: Outcome) -> list[str]:
    doubts = outcome.checked.doubts if outcome.checked else {}
    own = [outcome.unheard] if outcome.unheard else []
    return own + [f"step '{name}': {text}" for name, texts in doubts.items() for text in texts]
