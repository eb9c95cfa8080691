"""`dataflare report`: what a run did over its time, as text or as a page."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataflare.cli import answers, common, complete, human, tables, terminal
from dataflare.cli.usage import bad_usage
from dataflare.errors import Blame, RunError, WorkflowError, did_you_mean
from dataflare.formats.visible import visible

if TYPE_CHECKING:
    from dataflare.checkpoint.runs import RunRecord
    from dataflare.jobs.report import Report

_ID_DIGITS = 26


def report(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="The id of a run, or a workflow: its last run.",
            show_default=False,
            autocompletion=complete.workflows,
        ),
    ],
    html: Annotated[
        bool,
        typer.Option(
            "--html", help="One page that needs nothing else, on standard output or into --output."
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the page there.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="The workflow's file.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Report what a run did: rows, rates, latencies, checkpoints, errors with examples, and the slowest step."""
    if html and json:
        raise bad_usage("--html and --json cannot be used together", "dataflare report")
    folder, record = _found(run, file)
    from dataflare.jobs.report import page, report_of

    made = report_of(folder, record)
    if html or output is not None:
        if output is None and terminal.is_terminal(sys.stdout):
            output = Path(f"{record.workflow}-{record.run_id}.html")
        _write(page(made), output)
    elif json:
        answers.print_json(_as_json(made))
    else:
        _print(made)
    return 0


def _found(run: str, file: Path | None) -> tuple[Path, RunRecord]:
    """The workflow's folder and the record of a run."""
    from dataflare.checkpoint.runs import RunLog
    from dataflare.jobs.replay_history import folder_of_run

    workflows = common.known_workflows()
    if file is not None:
        workflows = [common.read_workflow(file).name]
    if run in workflows or not _is_id(run):
        folder = common.workflow_folder(run, file)
        record = RunLog(folder).last()
        if record is not None:
            return folder, record
        raise RunError(
            f"no run of '{run}' is recorded", code="E0815", blame=Blame.USER, help="run it first"
        )
    for name in workflows:
        found = folder_of_run(common.workflow_folder(name, file), run)
        record = None if found is None else RunLog(found).find(run)
        if found is not None and record is not None:
            return found, record
    raise WorkflowError(
        f"there is no run '{run}' here",
        code="E0815",
        help=did_you_mean(run, workflows) or "dataflare runs lists them",
    )


def _is_id(text: str) -> bool:
    return len(text) == _ID_DIGITS and text.isalnum() and text.upper() == text


def _write(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
        return
    try:
        with open(output, "w", encoding="utf-8", opener=_private) as file:
            file.write(text)
    except OSError as error:
        raise RunError(
            f"the page cannot be written to {output}: {error.strerror or error}",
            code="E0602",
            blame=Blame.USER,
            help="name another file with --output",
        ) from None
    print(output)


def _private(path: str, flags: int) -> int:
    """A new page is for its owner alone, as the folder of its run is. A file that is there keeps its mode."""
    return os.open(path, flags, 0o600)


def _as_json(made: Report) -> dict[str, object]:
    found = made.recorded
    return {
        **made.record.to_json(),
        "slowest": found.slowest if found else None,
        "rates": {**made.rates("source"), **made.rates("destination")},
        "latencies": made.latencies(0.99),
        "lags": made.lags(),
        "failed": [
            {"step": each.step, "code": each.code, "rows": each.rows, "examples": each.examples}
            for each in made.failed
        ],
        "values_shown": made.shows_values,
        "view": found.view.to_json() if found else None,
    }


def _print(made: Report) -> None:
    from dataflare.jobs.report import VALUES_HIDDEN

    record = made.record
    took = human.span(made.duration_s or human.between(record.started_at, record.ended_at))
    terminal.print_heading(f"{record.workflow}  {record.run_id}  {record.status} after {took}")
    if record.error is not None:
        print(visible(f"{record.error.code}: {record.error.message}"))
    if made.recorded is not None and made.recorded.slowest:
        print(f"slowest step {made.recorded.slowest}")
    rows = [
        (
            name,
            *(human.count(step.get(each)) for each in ("rows_in", "rows_out")),
            *(human.count(int(step.get(each) or 0)) for each in ("errors", "dead_letters", "late")),
        )
        for name, step in made.counts().items()
    ]
    columns = ("step", "rows in", "rows out", "failed", "dead letters", "late")
    tables.print_table(columns, rows, right=columns[1:])
    if made.failed and not made.shows_values:
        print(VALUES_HIDDEN)
    for group in made.failed:
        letters = human.counted(group.rows, "dead letter")
        example = group.examples[0]["message"]
        print(visible(f"{group.step} {group.code}: {letters}, such as: {example}"))
    print(f"the whole report as a page: dataflare report {record.run_id} --html -o report.html")
