"""Shared code of the commands that take a workflow: options, home folder, reading the file.

A command that takes a workflow's file looks in the home of that file. One that takes a name looks in
the homes of the working directory and of its parents, nearest first.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataflare.cli import complete, terminal
from dataflare.cli.usage import bad_usage
from dataflare.errors import WorkflowError, did_you_mean

NEVER_RAN = "E0121"

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="The workflow file.",
        show_default=False,
        autocompletion=complete.files,
    ),
]
Name = Annotated[
    str,
    typer.Argument(
        metavar="WORKFLOW",
        help="The workflow's name.",
        show_default=False,
        autocompletion=complete.workflows,
    ),
]
Params = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="K=V",
        help="Set a parameter of the workflow. May be repeated.",
        autocompletion=complete.params,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=V",
        help="Set a value of the file, such as settings.parallelism=4.",
    ),
]
Overlays = Annotated[
    list[Path] | None,
    typer.Option(
        "--overlay",
        metavar="FILE",
        help="Merge this file over the workflow.",
    ),
]

Env = Annotated[
    str | None,
    typer.Option(
        "--env",
        metavar="NAME",
        help="Merge this one of the file's `environments` over it.",
        autocompletion=complete.environments,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, also on failure.")]


def home() -> Path:
    """The home of a command without a file: $DATAFLARE_HOME, or the nearest `.dataflare` in the working
    directory and its parents."""
    from dataflare.checkpoint.home import homes_from_here

    return homes_from_here()[0]


def home_of(file: Path) -> Path:
    """The home of a workflow file: $DATAFLARE_HOME, or `.dataflare` beside the file."""
    from dataflare.checkpoint.home import home_of

    return home_of(file)


def read_workflow(
    file: Path,
    params: list[str] | None = None,
    sets: list[str] | None = None,
    overlays: list[Path] | None = None,
    environment: str | None = None,
) -> Workflow:
    """Read a workflow file with the options of the command line, and set the size of Polars' thread pool.

    Polars fixes its number of threads when it is imported, so no command may import it earlier.
    """
    for path in (file, *(overlays or ())):
        require_file(path)
    from dataflare.workflow.load import load

    workflow = load(
        file,
        params=dict(pairs("--param", params)),
        sets=pairs("--set", sets),
        overlays=overlays or [],
        environment=environment,
    )
    threads = workflow.settings.resources.threads
    if threads:
        os.environ.setdefault("POLARS_MAX_THREADS", str(threads))
    return workflow


def require_file(path: Path) -> None:
    """Raise WorkflowError (E0114) unless the file exists. Its help names the most similar file."""
    if path.is_file():
        return
    if path.is_dir():
        raise WorkflowError(
            f"'{path}' is a folder, not a workflow file", code="E0114", help="name a file in it"
        )
    try:
        near = [each.name for each in path.parent.iterdir() if each.suffix in (".yaml", ".yml")]
    except OSError:
        near = []
    raise WorkflowError(
        f"there is no workflow file '{path}'", code="E0114", help=did_you_mean(path.name, near)
    )


def pairs(option: str, values: list[str] | None) -> list[tuple[str, str]]:
    """`K=V` arguments, in order. Raises a usage error for an argument without a name or `=`."""
    named_values = []
    for value in values or ():
        name, sign, text = value.partition("=")
        if not name.strip() or not sign:
            raise bad_usage(f"{option} takes NAME=VALUE, not '{value}'")
        named_values.append((name.strip(), text))
    return named_values


def seconds(option: str, text: str | None, command: str) -> float | None:
    """The seconds of a duration such as `30s` or `1h30m`. None for None. command: whose option it is."""
    if text is None:
        return None
    from dataflare.model.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError:
        message = f"{option} takes a duration such as 30s, 5m or 1h, not '{text}'"
        raise bad_usage(message, command) from None


def workflow_folder(workflow: str, file: Path | None = None) -> Path:
    """The folder of a workflow that has run: in the home of `file`, else in the nearest home that has
    it. Raises WorkflowError (E0121) for any other name."""
    from dataflare.checkpoint.home import homes_from_here

    homes = homes_from_here()
    if file is not None:
        homes.insert(0, home_of(file))
    for each in homes:
        if workflow in _workflows_in(each):
            return each / workflow
    raise WorkflowError(
        f"no workflow '{workflow}' has run here",
        code=NEVER_RAN,
        notes=[f"looked in {', '.join(map(str, homes))}"],
        help=did_you_mean(workflow, known_workflows())
        or "change to the folder of the workflow's file; its state is there in .dataflare",
    )


def known_workflows() -> list[str]:
    """The workflows that run in `home()`, or have run there, by name."""
    return _workflows_in(home())


def _workflows_in(home: Path) -> list[str]:
    from dataflare.checkpoint.home import BACKFILLS

    marks = "runs", "door", BACKFILLS
    try:
        known = (f for f in home.iterdir() if any((f / mark).exists() for mark in marks))
        return sorted(folder.name for folder in known)
    except OSError:
        return []


def streamed_sources(workflow: Workflow) -> list[str]:
    """The sources whose rows are processed. Other sources are only tables of lookups."""
    names_read = {ref.step for step in workflow.steps() for ref in step.inputs}
    return [name for name in workflow.sources if name in names_read]


def ask(question: str, command: str) -> None:
    """Ask before something is deleted. Raises a usage error without a terminal, Exit for no."""
    if not terminal.is_terminal(sys.stdin):
        raise bad_usage(f"{question} add --yes to confirm", command)
    if not typer.confirm(question):
        raise typer.Exit(1)
