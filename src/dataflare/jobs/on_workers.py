"""Run the tasks of a run on workers in other processes.

The room `cluster` is imported when it is used: with the libraries that make its links fast it takes 35 MB.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from dataflare.checkpoint.shared_store import SharedStore
from dataflare.engine.deploy import Worker, deployed
from dataflare.engine.hosting import HostMaker
from dataflare.errors import ConfigError, DataFlareError
from dataflare.jobs.breakers import circuit_breakers, fallbacks
from dataflare.jobs.inspect import Found
from dataflare.jobs.lineage import storage_of
from dataflare.jobs.scaling import with_parallelism
from dataflare.planner import plan
from dataflare.planner.retries import retry_policies
from dataflare.resilience.retry import Retries
from dataflare.workflow.settings import PARALLELISM_MAX

if TYPE_CHECKING:
    from pathlib import Path

    from dataflare.checkpoint.store import Storage
    from dataflare.cluster.orders import Tell
    from dataflare.jobs.options import RunOptions
    from dataflare.workflow.model import Workflow


def host_of(workflow: Workflow, options: RunOptions, store: Storage, tell: Tell) -> HostMaker:
    """What hosts the tasks of an attempt. tell: told of what workers say to the run's user."""
    if options.workers is None:
        return Worker
    from dataflare.cluster.crew import Crew
    from dataflare.cluster.orders import Outfit

    url = workflow.settings.checkpoint.storage
    if not isinstance(store, SharedStore) or (url is not None and "://" in url):
        raise ConfigError(
            "checkpoints in a bucket are not possible on a cluster yet",
            code="E0431",
            help="set settings.checkpoint.storage to a folder that all nodes see",
        )
    outfit = Outfit(
        partial(SharedStore, store.folder, store.lineage),
        partial(retries_of, workflow),
        tuple(workflow.masked),
        workflow.base,
    )
    return partial(Crew, workers=options.workers, outfit=outfit, tell=tell)


@contextmanager
def on_cluster(
    workflow: Workflow, options: RunOptions, where: str
) -> Iterator[tuple[Workflow, RunOptions]]:
    """The workflow and the options for a run on a cluster, whose workers are there as long as this lasts. where: `auto`,
    `ray://HOST:PORT` or `local:N`."""
    from dataflare.cluster.on_ray import Place, RayWorkers

    workers = RayWorkers(Place.of(where, workflow.settings.cluster))
    try:
        follows = _follows(workflow)
        workflow = _for_workers(workflow, workers.start())
        yield workflow, replace(options, workers=workers, storage=SharedStore, follows=follows)
    finally:
        workers.close()


def placement_on(workflow: Workflow, home: Path, where: str) -> dict[str, Any]:
    """Where the tasks of a workflow would run, as `placement_view` says. Raises as `on_cluster` does, and asks the cluster
    only where neither it nor the workflow says how many workers there are."""
    from dataflare.cluster.on_ray import Place, RayWorkers
    from dataflare.cluster.placement_view import placement_view

    place = Place.of(where, workflow.settings.cluster)
    workers = place.workers
    if workers is None:
        asked = RayWorkers(place)
        try:
            workers = asked.possible()
        finally:
            asked.close()
    workflow = _for_workers(workflow, workers)
    specs = deployed(plan(workflow, home=home).stages, None)
    return placement_view(specs, workers)


def found_at(workflow: Workflow, home: Path, where: str) -> Found:
    """Whether a run could begin on a cluster, as one of the workflow's systems."""
    from dataflare.cluster.looking import look_at
    from dataflare.cluster.on_ray import Place, RayWorkers

    began = time.monotonic()
    workers = RayWorkers(Place.of(where, workflow.settings.cluster))
    facts: dict[str, str] = {}
    error = None
    try:
        workers.start()
        addresses = asyncio.run(look_at(workers, storage_of(workflow, home)))
        facts["workers"] = str(len(addresses))
        facts["nodes"] = str(len({host for host, _ in addresses}))
    except DataFlareError as raised:
        error = raised
    finally:
        workers.close()
    return Found("cluster", "cluster", where, time.monotonic() - began, facts, error=error)


def _for_workers(workflow: Workflow, workers: int) -> Workflow:
    """The workflow with a task of each step for each worker, unless it says how many."""
    if not _follows(workflow):
        return workflow
    return with_parallelism(workflow, min(workers, PARALLELISM_MAX))


def _follows(workflow: Workflow) -> bool:
    """Whether there are as many tasks of a step as workers."""
    return "parallelism" not in workflow.settings.model_fields_set


def retries_of(workflow: Workflow, tell: Tell) -> Retries:
    """The calls of the steps, in a worker: what happens to them is told to the job."""

    def told(what: str, *arguments: Any) -> None:
        tell(what, arguments)

    return Retries(
        retry_policies(workflow),
        partial(told, "retried"),
        breakers=circuit_breakers(workflow, partial(told, "opened"), partial(told, "closed")),
        fallbacks=fallbacks(workflow),
    )
