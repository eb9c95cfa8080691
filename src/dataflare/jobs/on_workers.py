"""Run the tasks of a run on workers in other processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from dataflare.checkpoint.shared_store import SharedStore
from dataflare.cluster.crew import Crew
from dataflare.cluster.orders import Outfit, Tell
from dataflare.engine.deploy import Worker
from dataflare.engine.hosting import HostMaker
from dataflare.errors import ConfigError
from dataflare.jobs.breakers import circuit_breakers, fallbacks
from dataflare.planner.retries import retry_policies
from dataflare.resilience.retry import Retries

if TYPE_CHECKING:
    from dataflare.checkpoint.store import Storage
    from dataflare.jobs.options import RunOptions
    from dataflare.workflow.model import Workflow


def host_of(workflow: Workflow, options: RunOptions, store: Storage, tell: Tell) -> HostMaker:
    """What hosts the tasks of an attempt. tell: told of what workers say to the run's user."""
    if options.workers is None:
        return Worker
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

    settings = workflow.settings
    workers = RayWorkers(Place.of(where))
    try:
        count = workers.start()
        if "parallelism" not in settings.model_fields_set:
            settings = settings.model_copy(update={"parallelism": min(count, 128)})
            workflow = replace(workflow, settings=settings)
        yield workflow, replace(options, workers=workers, storage=SharedStore)
    finally:
        workers.close()


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
