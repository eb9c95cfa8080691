"""`dataflare nodes`: the nodes of a cluster, the workers on them, and the jobs that have these."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataflare.cli import answers, common, human, status, tables
from dataflare.formats.visible import visible_line

if TYPE_CHECKING:
    from dataflare.observability.view import RunView

_BETWEEN_S = 1.5
"""Between the two looks that rates come from."""


def nodes(
    cluster: Annotated[
        str,
        typer.Option("--cluster", metavar="WHERE", help="auto or ray://HOST:PORT."),
    ] = "auto",
    json: common.Json = False,
) -> int:
    """Show the nodes of a Ray cluster, their workers, the jobs on them, the slowest worker of each, and what goes over the links."""
    from dataflare.jobs.whole_cluster import cluster_view

    before: dict[str, RunView] = {}
    view = cluster_view(cluster)
    if not json and any(job.get("run") for job in view["jobs"]):
        before = _runs(view)
        time.sleep(_BETWEEN_S)
        view = cluster_view(cluster)
    if json:
        answers.print_json(view, indent=False)
        return 0
    workers = view["workers"]
    columns = ("node", "address", "status", "processors", "memory", "workers", "jobs")
    rows = [_node(node, workers) for node in view["nodes"]]
    tables.print_table(columns, rows, right=("processors", "memory", "workers"))
    if view["jobs"]:
        print()
        headings = ("job", "status", "priority", "workers", "slowest worker")
        runs = _runs(view)
        rows = [_job(job, runs, before) for job in view["jobs"]]
        tables.print_table(headings, rows, right=("priority",))
        for name, run in runs.items():
            for line in status.links(run, before.get(name)):
                print(visible_line(f"{run.workflow}: {line}"))
    return 0


def _node(node: Mapping[str, Any], workers: list[Mapping[str, Any]]) -> list[str]:
    here = [worker for worker in workers if worker["node"] == node["node"]]
    jobs = sorted({job for worker in here for job in worker["jobs"]})
    return [
        node["node"][:8],
        node["address"],
        "alive" if node["alive"] else "lost",
        f"{node['cpu']:g}",
        human.size(node["memory"]),
        f"{len(here)}, {sum(not worker['jobs'] for worker in here)} idle" if here else "0",
        visible_line(", ".join(jobs)),
    ]


def _runs(view: Mapping[str, Any]) -> dict[str, RunView]:
    """By job, its run."""
    from dataflare.observability.view import RunView

    jobs = [job for job in view["jobs"] if job.get("run")]
    return {job["job"]: RunView.from_json(job["run"]) for job in jobs}


def _job(
    job: Mapping[str, Any], runs: Mapping[str, RunView], before: Mapping[str, RunView]
) -> list[str]:
    name = job["job"]
    slowest = status.slowest_worker(runs[name], before.get(name)) if name in runs else ""
    return [
        visible_line(job["job"]),
        "waits for workers" if job["waits"] else str(job.get("status", "")),
        str(job["priority"]),
        ", ".join(worker.removeprefix("worker ") for worker in job["workers"]),
        slowest,
    ]
