"""A cluster, as those see it who look at it: its nodes, workers and jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataflare.observability.view import RunView


def cluster_view(where: str) -> dict[str, Any]:
    """nodes, workers and jobs, as `dataflare nodes --json` prints them. where: `auto` or `ray://HOST:PORT`. Raises ConfigError (E0404,
    E0432), SystemError_ (E0617, E0840)."""
    from dataflare.cluster.on_ray import view_of

    return view_of(where)


def running_jobs(where: str) -> list[str]:
    """The names of the jobs of a cluster. Raises as `cluster_view` does."""
    return [job["job"] for job in cluster_view(where)["jobs"]]


def run_views(where: str, workflow: str | None = None) -> Sequence[RunView]:
    """The runs of a cluster, as they said of themselves last. Raises as `cluster_view` does."""
    jobs = cluster_view(where)["jobs"]
    views = [RunView.from_json(job["run"]) for job in jobs if job.get("run") is not None]
    return [view for view in views if workflow is None or view.workflow == workflow]


def stop_job(where: str, workflow: str) -> list[str]:
    """Ask the jobs of a workflow to take a checkpoint and end. Gives their names. Raises as `cluster_view` does."""
    from dataflare.cluster.on_ray import RayJob

    names = [name for name in running_jobs(where) if name.rpartition(" ")[0] == workflow]
    for name in names:
        RayJob(name).stop()
    return names


def scale_job(
    where: str, workflow: str, workers: int | None, parallelism: int | None
) -> dict[str, Any] | None:
    """Give the job of a workflow another size. What became of it, as `Scaled` says; None if there is no job. Raises as `cluster_view`
    does, and what `RayJob.scale` raises."""
    from dataflare.cluster.on_ray import RayJob

    names = [name for name in running_jobs(where) if name.rpartition(" ")[0] == workflow]
    return RayJob(names[0]).scale(workers, parallelism) if names else None
