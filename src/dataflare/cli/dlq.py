"""`dataflare dlq`: show dead letters, replay them, or delete them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataflare.cli import answers, common, human, tables, terminal
from dataflare.cli.usage import bad_usage
from dataflare.errors import DataFlareError, WorkflowError
from dataflare.formats.visible import visible

if TYPE_CHECKING:
    from dataflare.jobs.letters import Letter, LetterBox, Wanted
    from dataflare.jobs.replay import Replayed
    from dataflare.workflow.model import Workflow

_HELP = """Dead letters: rows that a workflow refused, stored with the reason.

A step with `error_handling: {on_error: dead_letter}` stores rows there that it cannot process, instead
of failing the run. Read them with `list` and `show`, fix the workflow or the data, then process them
again with `replay`, or delete them with `purge`.
"""
app = typer.Typer(name="dlq", help=_HELP)
_CELL_MAX = 60

File = Annotated[
    Path | None,
    typer.Option(
        "--file", metavar="FILE", help="The workflow's file; by default that of its last run."
    ),
]
Step = Annotated[str | None, typer.Option("--step", help="Only rows that this step refused.")]
Code = Annotated[str | None, typer.Option("--code", help="Only rows refused with this error code.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def explain(context: typer.Context) -> None:
    """Without a command: print the help, and the workflows that ran here."""
    if context.invoked_subcommand is not None:
        return
    print(context.get_help())
    workflows = common.known_workflows()
    if workflows:
        print(f"Workflows that ran here: {', '.join(workflows)}")
        print(f"Begin with: dataflare dlq list {workflows[0]}")
    else:
        print(f"No workflow has run here yet ({common.home()}).")


@app.command("list")
def list_letters(workflow: common.Name, file: File = None, json: Json = False) -> int:
    """Count the dead letters by step and error code."""
    box, _ = _box(workflow, file)
    groups = list(_groups(box))
    if json:
        answers.print_json(groups)
    elif not groups:
        print(f"workflow '{workflow}' has no dead letters")
    else:
        columns = ("step", "code", "waiting", "replayed", "first", "last", "message")
        rows = [
            (
                *(group[name] for name in ("step", "code", "waiting", "replayed")),
                *(human.moment(group[name]) for name in ("first", "last")),
                _short(group["message"]),
            )
            for group in groups
        ]
        tables.print_table(columns, rows, right=("waiting", "replayed"))
    return 0


@app.command("show")
def show(
    workflow: common.Name,
    file: File = None,
    step: Step = None,
    code: Code = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="The most rows to show.")] = 20,
    full: Annotated[bool, typer.Option("--full", help="Do not cut long values.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> int:
    """Show the waiting rows with the reason of each, oldest first."""
    box, _ = _box(workflow, file)
    letters = [letter for letter in box.waiting() if _wanted(step, code)(letter)]
    for letter in letters[:limit]:
        if json:
            answers.print_json(letter.to_json(), indent=False)
        else:
            _print_letter(letter, full=full)
    if not json:
        more = len(letters) - limit
        print(
            f"and {human.counted(more, 'more letter')}"
            if more > 0
            else human.counted(len(letters), "letter")
        )
    return 0


@app.command("replay")
def replay(
    workflow: common.Name,
    file: File = None,
    step: Step = None,
    code: Code = None,
    param: common.Params = None,
    sets: common.Sets = None,
    overlay: common.Overlays = None,
    env: common.Env = None,
    json: Json = False,
) -> int:
    """Process rows again, with the current file of the workflow. Each row is replayed once."""
    common.workflow_folder(workflow, file)
    workflow_now = common.read_workflow(_file(workflow, file), param, sets, overlay, env)
    _same_name(workflow, workflow_now)
    from dataflare.jobs.replay import replay as bring_in

    box = _box_of(workflow, workflow_now, file)
    outcome = bring_in(workflow_now, box, _wanted(step, code))
    for reason, count in outcome.reasons.items():
        terminal.print_warning(f"{human.counted(count, 'letter')} not replayed: {reason}")
    if outcome.replaced:
        letters = human.counted(len(outcome.replaced), "letter")
        terminal.print_warning(
            f"{letters} set aside: a later run has read their rows again, and replaced the content "
            "of its destinations"
        )
    if outcome.error is not None:
        terminal.print_error(outcome.error)
    for name in outcome.by_key:
        terminal.print_warning(
            f"'{name}' has the replayed rows in place of those with their keys, also where these were newer: "
            "give it 'sequence', and the newer row stays"
        )
    waiting = len(box.waiting())
    if json:
        answers.print_json(_replayed_json(workflow, outcome, waiting), indent=False)
    else:
        rows = human.counted(outcome.rows, "row")
        done = f"{rows} replayed"
        if outcome.failed:
            done = f"{rows} tried again, {human.counted(outcome.failed, 'refusal')}"
            terminal.print_warning(
                f"what was refused again is a new letter: `dataflare dlq show {workflow}` says why"
            )
        print(f"{done}; {waiting:,} waiting")
    return outcome.exit_status


@app.command("purge")
def purge(
    workflow: common.Name,
    file: File = None,
    step: Step = None,
    code: Code = None,
    before: Annotated[
        str | None,
        typer.Option(
            "--before", metavar="TIME", help="Only rows refused before: 2024-01-31, or 7d ago."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> int:
    """Delete dead letters, also replayed ones."""
    box, _ = _box(workflow, file)
    matches = _wanted(step, code, before)
    count = sum(map(matches, box.letters()))
    if not count:
        if json:
            answers.print_json({"workflow": workflow, "purged": 0}, indent=False)
        else:
            print("nothing to purge")
        return 0
    if not yes:
        question = f"delete {human.counted(count, 'dead letter')} of '{workflow}' for ever?"
        common.ask(question, "dataflare dlq purge")
    from dataflare.jobs.letters import purge as delete

    purged = delete(box, matches)
    if json:
        answers.print_json({"workflow": workflow, "purged": purged}, indent=False)
    else:
        print(f"{human.counted(purged, 'letter')} purged")
    return 0


# -- what they share -----------------------------------------------------------------------------


def _box(workflow: str, file: Path | None) -> tuple[LetterBox, Workflow | None]:
    """The letters of a workflow, in the places that its file names, if the file can be read."""
    from dataflare.jobs.letters import LetterBox

    folder = common.workflow_folder(workflow, file)
    try:
        workflow_now = common.read_workflow(_file(workflow, file))
    except DataFlareError as error:
        box = LetterBox(folder)
        if file is not None or not box.letters():
            raise
        terminal.print_warning(f"only letters in {box.places[0]} are read: {error.message}")
        return box, None
    _same_name(workflow, workflow_now)
    return _box_of(workflow, workflow_now, file), workflow_now


def _box_of(workflow: str, workflow_now: Workflow, file: Path | None) -> LetterBox:
    """The letters in local files. Raises WorkflowError (E0123) if there are none because they go to
    another destination."""
    from dataflare.jobs.letters import LetterBox, letter_places

    places, elsewhere = letter_places(workflow_now)
    box = LetterBox(common.workflow_folder(workflow, file), places)
    if elsewhere and not box.letters():
        raise WorkflowError(
            f"the dead letters of '{workflow}' go to a destination of type {', '.join(elsewhere)}",
            code="E0123",
            help="read them there; only letters in local files can be shown and replayed",
        )
    return box


def _file(workflow: str, file: Path | None) -> Path:
    """The workflow's file: the one of the command line, else that of its last run."""
    if file is not None:
        return file
    from dataflare.checkpoint.home import shards_of
    from dataflare.checkpoint.runs import RunLog

    folder = common.workflow_folder(workflow)
    runs = (RunLog(each).last() for each in (folder, *shards_of(folder)))
    last_run = next((run for run in runs if run is not None), None)
    if last_run is None or last_run.file is None or not Path(last_run.file).is_file():
        last_file = f" (it was {last_run.file})" if last_run is not None and last_run.file else ""
        raise WorkflowError(
            f"the file of workflow '{workflow}' is not known{last_file}",
            code="E0124",
            help="name it with --file",
        )
    return Path(last_run.file)


def _same_name(workflow: str, workflow_now: Workflow) -> None:
    if workflow_now.name != workflow:
        raise WorkflowError(
            f"{workflow_now.file} has the workflow '{workflow_now.name}', not '{workflow}'",
            code="E0124",
            help="name the right file with --file",
        )


def _wanted(step: str | None, code: str | None, before: str | None = None) -> Wanted:
    from dataflare.jobs.letters import Wanted

    return Wanted(step, code, None if before is None else _moment(before))


def _moment(text: str) -> str:
    """A date, a time, or a duration before now, as RFC 3339 in UTC."""
    from datetime import UTC, datetime, timedelta

    from dataflare.model.units import parse_duration

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            moment = datetime.now(UTC) - timedelta(seconds=parse_duration(text))
        except ValueError:
            raise bad_usage(
                f"--before takes a time such as 2024-01-31T12:00:00Z or 7d, not '{text}'"
            ) from None
    if moment.tzinfo is None:
        moment = moment.astimezone()
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _groups(box: LetterBox) -> Iterator[dict[str, Any]]:
    replayed = box.replayed()
    groups: dict[tuple[str, str], list[Letter]] = {}
    for letter in box.letters():
        groups.setdefault((letter.step, letter.code), []).append(letter)
    for (step, code), letters in groups.items():
        replayed_count = sum(letter.id in replayed for letter in letters)
        yield {
            "step": step,
            "code": code,
            "waiting": len(letters) - replayed_count,
            "replayed": replayed_count,
            "first": letters[0].failed_at,
            "last": letters[-1].failed_at,
            "message": letters[-1].message,
        }


def _print_letter(letter: Letter, *, full: bool) -> None:
    at = f" at {letter.position}" if letter.position else ""
    terminal.print_heading(f"{letter.step}  {letter.code}  {human.moment(letter.failed_at)}{at}")
    print(visible(letter.message))
    shown = _line if full else _short
    rows = [
        (visible(name), "NULL" if value is None else shown(str(value)))
        for name, value in letter.row.items()
    ]
    for line in tables.lines((), rows):
        print(f"  {line}")
    print()


def _line(text: str) -> str:
    return visible(text.replace("\n", "⏎"))


def _short(text: str) -> str:
    text = _line(text)
    return text if len(text) <= _CELL_MAX else text[: _CELL_MAX - 1] + "…"


def _replayed_json(workflow: str, outcome: Replayed, waiting: int) -> dict[str, Any]:
    error = outcome.error
    return {
        "workflow": workflow,
        "replayed": outcome.rows,
        "refused_again": outcome.failed,
        "replaced": len(outcome.replaced),
        "by_key": outcome.by_key,
        "waiting": waiting,
        "left": dict(outcome.reasons),
        "run_ids": [result.run_id for result in outcome.results],
        "error": error and error.to_json(),
    }
