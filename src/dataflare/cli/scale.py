"""`dataflare scale`: give a running workflow more or fewer workers and tasks."""

from __future__ import annotations

from typing import Annotated

import typer

from dataflare.cli import answers, common, living
from dataflare.cli.status import Cluster, File, RunningWorkflow
from dataflare.cli.usage import bad_usage


def scale(
    workflow: RunningWorkflow,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", help="So many workers of its cluster."),
    ] = None,
    parallelism: Annotated[
        int | None,
        typer.Option(
            "--parallelism",
            metavar="M",
            help="So many tasks of each step. Else one for each worker, unless the file says how many.",
        ),
    ] = None,
    file: File = None,
    cluster: Cluster = None,
    json: common.Json = False,
) -> int:
    """Give a running workflow another size. It takes a checkpoint and goes on from it; no row is read twice.

    If there is no room for the size, or it cannot begin, the run goes on with the one that it has. The next start of the workflow
    has the size of its file and command line again.
    """
    if workers is None and parallelism is None:
        raise bad_usage("say --workers N, --parallelism M, or both", "dataflare scale")
    if cluster is not None:
        if file is not None:
            raise bad_usage("--file cannot be used with --cluster", "dataflare scale")
        from dataflare.jobs.whole_cluster import scale_job

        scaled = scale_job(cluster, workflow, workers, parallelism)
    else:
        folder = common.workflow_folder(workflow, file)
        asked = living.answers_of(folder, "scale", workers=workers, parallelism=parallelism)
        scaled = next((answer for answer in asked if answer), None)
    if scaled is None:
        raise living.not_running(workflow)
    if json:
        answers.print_json({"workflow": workflow, **scaled}, indent=False)
        return 0
    now = scaled["now"]
    tasks = f"{now['parallelism']} tasks of a step"
    size = tasks if now["workers"] is None else f"{now['workers']} workers and {tasks}"
    if scaled["epoch"] is None:
        print(f"'{workflow}' has {size}, as before")
    else:
        print(
            f"'{workflow}' has {size} from checkpoint {scaled['epoch']} on; rows stood still for {scaled['pause_s']:.1f} s"
        )
    return 0
