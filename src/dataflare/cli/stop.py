"""`dataflare stop`: let a run take a checkpoint and end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataflare.cli import answers, common, living
from dataflare.cli.status import Cluster, File, RunningWorkflow
from dataflare.cli.usage import bad_usage
from dataflare.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable

_PAUSE_S = 0.1
_PAUSE_CLUSTER_S = 0.5


def stop(
    workflow: RunningWorkflow,
    file: File = None,
    cluster: Cluster = None,
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="DURATION", help="Wait no longer for its end."),
    ] = None,
    json: common.Json = False,
) -> int:
    """Let a run take a checkpoint and end, as Ctrl-C does. Waits for its end; the next run goes on from there."""
    patience_s = common.seconds("--timeout", timeout, "dataflare stop")
    if cluster is not None:
        if file is not None:
            raise bad_usage("--file cannot be used with --cluster", "dataflare stop")
        run_id = _stop_on_cluster(workflow, cluster, patience_s)
    else:
        run_id = _stop_here(common.workflow_folder(workflow, file), patience_s)
    if json:
        answers.print_json({"workflow": workflow, "run_id": run_id}, indent=False)
    else:
        print(f"run {run_id} of '{workflow}' was stopped")
    return 0


def _stop_here(folder: Path, patience_s: float | None) -> str:
    from dataflare.checkpoint.lock import lock_state

    run_id = str(next(living.answers_of(folder, "stop"))["run_id"])

    def is_there() -> bool:
        state = lock_state(folder)
        return state.held and (state.holder is None or state.holder.run_id == run_id)

    _wait(folder.name, is_there, _PAUSE_S, patience_s)
    return run_id


def _stop_on_cluster(workflow: str, cluster: str, patience_s: float | None) -> str:
    from dataflare.jobs.whole_cluster import running_jobs, stop_job

    names = stop_job(cluster, workflow)
    if not names:
        raise living.not_running(workflow)
    _wait(workflow, lambda: bool({*names} & {*running_jobs(cluster)}), _PAUSE_CLUSTER_S, patience_s)
    return names[0].rpartition(" ")[2]


def _wait(
    workflow: str, is_there: Callable[[], bool], pause_s: float, patience_s: float | None
) -> None:
    until = None if patience_s is None else time.monotonic() + patience_s
    while is_there():
        if until is not None and time.monotonic() >= until:
            raise RunError(
                f"the run of '{workflow}' has not ended yet",
                code="E0817",
                help=f"it still takes its checkpoint: see dataflare status {workflow}",
            )
        time.sleep(pause_s)
