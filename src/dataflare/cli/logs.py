"""`dataflare logs`: what a run has said."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from dataflare.cli import common
from dataflare.cli.status import File, KnownWorkflow
from dataflare.errors import Blame, RunError
from dataflare.formats.visible import visible_json, visible_line

if TYPE_CHECKING:
    from dataflare.observability.logs import LogLine

_SETTLE_S = 1.0


def logs(
    workflow: KnownWorkflow,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Go on with the lines that come, until the run ends."),
    ] = False,
    run: Annotated[
        str | None, typer.Option("--run", metavar="ID", help="This run; else the newest.")
    ] = None,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", min=0, help="Only so many of the last lines.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    file: File = None,
) -> int:
    """Print the log of a run: how it began, notices, retries, restarts, errors, and how it ended."""
    from dataflare.jobs.replay_history import folder_of_run
    from dataflare.observability import logs as files

    folder = common.workflow_folder(workflow, file)
    if run is not None:
        folder = folder_of_run(folder, run) or folder
    chosen = run or files.newest(folder)
    found = list(files.lines(folder, chosen)) if chosen and not follow else []
    if chosen is None or not (found or follow):
        raise RunError(
            f"there is no log of {'run ' + run if run else 'a run'} of '{workflow}'",
            code="E0815",
            blame=Blame.USER,
            help=f"see dataflare runs {workflow}; the logs of the last 20 runs are kept",
        )
    if not follow:
        for line in found[len(found) - lines if lines is not None and lines < len(found) else 0 :]:
            _print(line, json)
        return 0
    for line in _following(folder, chosen, lines):
        _print(line, json)
    return 0


def _following(folder: Path, run_id: str, last: int | None) -> Iterator[LogLine]:
    """The lines of a run, and those that come; last: only so many of those that are there at first. Ends when the run has ended, and
    some time after that nothing came."""
    from dataflare.checkpoint.lock import lock_state
    from dataflare.observability.logs import following

    ended_at: float | None = None
    there: deque[LogLine] | None = None if last is None else deque(maxlen=last)
    for line in following(folder, run_id):
        if line is not None:
            if there is None:
                yield line
            else:
                there.append(line)
            continue
        if there is not None:
            yield from there
            there = None
        state = lock_state(folder)
        if state.held and (state.holder is None or state.holder.run_id == run_id):
            ended_at = None
        elif ended_at is None:
            ended_at = time.monotonic()
        elif time.monotonic() - ended_at > _SETTLE_S:
            return


def _print(line: LogLine, as_json: bool) -> None:
    text = visible_json(orjson.dumps(dict(line)).decode()) if as_json else visible_line(line.text)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
