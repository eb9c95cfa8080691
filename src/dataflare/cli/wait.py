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
from dataflare.errors import RunError, WorkflowError

if TYPE_CHECKING:
    from dataflare.checkpoint.runs import RunRecord
    from dataflare.observability.view import RunView

NOT_SO_FAR = "E0816"
_TIMED_OUT = 4
"""The exit status."""
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
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help='Only a run that began at this time or later counts, also one that is still to begin: `--since "$(date -Is)"`.',
        ),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout", metavar="DURATION", help="Give up after so long, and exit with 4."
        ),
    ] = None,
    json: common.Json = False,
    file: File = None,
) -> int:
    """Wait until all rows up to an event time are committed, or the run has finished. Exits with 1 if it fails, with 4 after --timeout."""
    wanted = None if until is None else _time("--until", until)
    begun_s = 0.0 if since is None else _time("--since", since).timestamp()
    patience_s = common.seconds("--timeout", timeout, "dataflare wait")
    if since is None:
        common.workflow_folder(workflow, file)  # it has run
    ends_at = None if patience_s is None else time.monotonic() + patience_s
    while (state := _state(workflow, file, wanted, begun_s)) is None:
        if ends_at is not None and time.monotonic() >= ends_at:
            raise _TimedOut(
                f"'{workflow}' has not come so far within {timeout}",
                code=NOT_SO_FAR,
                help=f"see dataflare status {workflow}",
            )
        time.sleep(_PAUSE_S)
    if json:
        answers.print_json({"workflow": workflow, "state": state}, indent=False)
    return 0


class _TimedOut(RunError):
    """It may still come so far; a run that failed does not."""

    @property
    def exit_status(self) -> int:
        return _TIMED_OUT


def _time(option: str, text: str) -> datetime.datetime:
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        message = f"{option} needs a time such as 2026-01-01T00:00Z, not '{text}'"
        raise bad_usage(message, "dataflare wait") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=datetime.UTC)


def _state(
    workflow: str, file: Path | None, wanted: datetime.datetime | None, begun_s: float
) -> str | None:
    """'committed' or 'finished'; None as long as it is neither. Raises RunError if it will be neither. begun_s: a run that
    began earlier does not count."""
    from dataflare.checkpoint.lock import lock_state
    from dataflare.checkpoint.runs import RunLog

    try:
        folder = common.workflow_folder(workflow, file)
    except WorkflowError:
        return None  # its first run is still to begin
    view = living.view_of(folder)
    if view is not None:
        counts = view.started >= begun_s
        return "committed" if counts and wanted is not None and _is_there(view, wanted) else None
    if lock_state(folder).held:
        return None  # it begins or ends, or has no socket
    last = RunLog(folder).last()
    if begun_s and (last is None or _begun_s(last) < begun_s):
        return None
    if last is not None and last.status == "finished":
        return "finished"
    raise RunError(
        f"the last run of '{folder.name}' did not finish, and none is active",
        code=NOT_SO_FAR,
        help=f"see dataflare runs {folder.name}",
    )


def _begun_s(record: RunRecord) -> float:
    """In seconds since 1970, to the next millisecond."""
    return datetime.datetime.fromisoformat(record.started_at).timestamp() + 0.001


def _is_there(view: RunView, wanted: datetime.datetime) -> bool:
    """Whether all destinations have committed what is earlier."""
    wanted_us = wanted.timestamp() * 1e6
    steps = [step for step in view.steps.values() if step.kind == "destination"]
    # Of a run that does not answer no step is known.
    return bool(steps) and all(
        s.committed_us is not None and s.committed_us >= wanted_us for s in steps
    )
