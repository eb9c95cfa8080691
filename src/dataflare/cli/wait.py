"""`dataflare wait`: until a workflow has committed all rows up to a time."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataflare.cli import answers, common, living
from dataflare.cli.status import File, KnownWorkflow
from dataflare.cli.usage import bad_usage
from dataflare.errors import RunError

if TYPE_CHECKING:
    from dataflare.observability.view import RunView

NOT_SO_FAR = "E0816"
_PAUSE_S = 0.1


def wait(
    workflow: KnownWorkflow,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="TIME",
            help="An event time, such as 2026-01-01T00:00Z; without an offset it is UTC. Else the end of the run.",
        ),
    ] = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="DURATION", help="Give up after so long.")
    ] = None,
    json: common.Json = False,
    file: File = None,
) -> int:
    """Wait until all rows up to an event time are committed, or the run has finished. Exits with 1 if it fails."""
    wanted = _time(until) if until is not None else None
    patience_s = common.seconds("--timeout", timeout)
    folder = common.workflow_folder(workflow, file)
    ends_at = None if patience_s is None else time.monotonic() + patience_s
    while (state := _state(folder, wanted)) is None:
        if ends_at is not None and time.monotonic() >= ends_at:
            raise RunError(
                f"'{folder.name}' has not come so far within {timeout}",
                code=NOT_SO_FAR,
                help=f"see dataflare status {folder.name}",
            )
        time.sleep(_PAUSE_S)
    if json:
        answers.print_json({"workflow": folder.name, "state": state}, indent=False)
    return 0


def _time(text: str) -> datetime.datetime:
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        message = f"--until needs a time such as 2026-01-01T00:00Z, not '{text}'"
        raise bad_usage(message, "dataflare wait") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=datetime.UTC)


def _state(folder: Path, wanted: datetime.datetime | None) -> str | None:
    """'committed' or 'finished'; None as long as it is neither. Raises RunError if it will be neither."""
    from dataflare.checkpoint.lock import lock_state
    from dataflare.checkpoint.runs import RunLog

    view = living.view_of(folder)
    if view is not None:
        return "committed" if wanted is not None and _is_there(view, wanted) else None
    if lock_state(folder).held:
        return None  # it begins or ends, or has no socket
    last = RunLog(folder).last()
    if last is not None and last.status == "finished":
        return "finished"
    raise RunError(
        f"the last run of '{folder.name}' did not finish, and none is active",
        code=NOT_SO_FAR,
        help=f"see dataflare runs {folder.name}",
    )


def _is_there(view: RunView, wanted: datetime.datetime) -> bool:
    """Whether all destinations have committed what is earlier."""
    wanted_us = wanted.timestamp() * 1e6
    steps = [step for step in view.steps.values() if step.kind == "destination"]
    return all(s.committed_us is not None and s.committed_us >= wanted_us for s in steps)
