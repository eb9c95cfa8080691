"""`dataflare nodes`: the nodes of a cluster, the workers on them, and the jobs that have these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from dataflare.cli import answers, common, human, tables
from dataflare.formats.visible import visible_line


def nodes(
    cluster: Annotated[
        str,
        typer.Option("--cluster", metavar="WHERE", help="auto or ray://HOST:PORT."),
    ] = "auto",
    json: common.Json = False,
) -> int:
    """Show the nodes of a Ray cluster, their workers, and the jobs on them."""
    from dataflare.jobs.whole_cluster import cluster_view

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
        headings = ("job", "status", "priority", "workers")
        tables.print_table(headings, [_job(job) for job in view["jobs"]], right=("priority",))
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


def _job(job: Mapping[str, Any]) -> list[str]:
    status = "waits for workers" if job["waits"] else str(job.get("status", ""))
    return [
        visible_line(job["job"]),
        status,
        str(job["priority"]),
        ", ".join(worker.removeprefix("worker ") for worker in job["workers"]),
    ]
