"""Run the tasks of a run on workers in other processes.

The room `cluster` is imported when it is used: with the libraries that make its links fast it takes 35 MB.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from dataflare.checkpoint.files import workflow_folder
from dataflare.checkpoint.lock import RunLock
from dataflare.checkpoint.runs import utc_text
from dataflare.checkpoint.shared_places import BucketPlace, FolderPlace, SharedPlace
from dataflare.checkpoint.shared_store import SharedStore
from dataflare.engine.deploy import Worker, deployed
from dataflare.engine.hosting import HostMaker
from dataflare.errors import ConfigError, DataFlareError
from dataflare.jobs.breakers import circuit_breakers, fallbacks
from dataflare.jobs.inspect import Found
from dataflare.jobs.job_place import has_own_code, job_place
from dataflare.jobs.lineage import bucket_of, storage_of
from dataflare.jobs.result import RunResult
from dataflare.jobs.scaling import with_parallelism
from dataflare.planner import plan
from dataflare.planner.retries import retry_policies
from dataflare.resilience.retry import Retries
from dataflare.workflow.settings import PARALLELISM_MAX

if TYPE_CHECKING:
    from pathlib import Path

    from dataflare.checkpoint.store import Storage
    from dataflare.cluster.orders import Tell
    from dataflare.cluster.place import Place
    from dataflare.jobs.hosted_job import Observers
    from dataflare.jobs.options import RunOptions
    from dataflare.jobs.watching import Watch
    from dataflare.workflow.model import Workflow


def host_of(workflow: Workflow, options: RunOptions, store: Storage, tell: Tell) -> HostMaker:
    """What hosts the tasks of an attempt. tell: told of what workers say to the run's user."""
    if options.workers is None:
        return Worker
    from dataflare.cluster.crew import Crew
    from dataflare.cluster.orders import Outfit

    assert isinstance(store, SharedStore)
    settings = workflow.settings
    url = bucket_of(settings.checkpoint.storage)
    outfit = Outfit(
        partial(
            _store_in_worker,
            url,
            store.folder,
            store.lineage,
            settings.cluster.cache,
            settings.state.standby,
        ),
        partial(retries_of, workflow),
        tuple(workflow.masked),
        workflow.base,
    )
    return partial(Crew, workers=options.workers, outfit=outfit, tell=tell, kept=options.kept)


def _store_in_worker(
    url: str | None,
    folder: Path,
    lineage: str,
    cache_bytes: int,
    standby: int,
    here: Path | None,
) -> SharedStore:
    """folder: the workflow's. here: a folder of the worker; None in the process of the job."""
    from dataflare.checkpoint.chunk_cache import ChunkCache, cache_folder

    if url is None:
        if not standby or here is None:
            return SharedStore(folder, lineage)
        from dataflare.checkpoint.cached_store import CachedStore

        return CachedStore(folder, lineage, ChunkCache(cache_folder(), lineage, cache_bytes))
    from dataflare.checkpoint.object_store import Bucket
    from dataflare.checkpoint.shared_bucket import SharedBucketStore, WorkerBucketStore

    if here is None:
        return SharedBucketStore(Bucket(url), folder, lineage)
    cache = ChunkCache(cache_folder(), lineage, cache_bytes)
    return WorkerBucketStore(Bucket(url), here / folder.name, lineage, cache)


def run_on_cluster(
    workflow: Workflow,
    options: RunOptions,
    where: str,
    observers: Observers,
    *,
    detach: bool = False,
) -> RunResult:
    """Run a workflow on a cluster. where: `auto`, `ray://HOST:PORT` or `local:N`. observers: make those of `options` again, in
    another process. detach: return as soon as the job reads rows, with the status "running".

    The job runs in an actor of the cluster, which goes on without this process; in this process where the cluster ends with it
    (`local:N`), or where the workflow has connectors of this process. Raises as `run` does, ConfigError (E0438) where a job
    cannot be detached, and SystemError_ (E0617, E0840, E0841).
    """
    from dataflare.cluster.on_ray import connect, own_node
    from dataflare.cluster.place import Place

    # Other processes have other working directories.
    workflow = replace(workflow, base=workflow.base.absolute())
    place = replace(
        Place.of(where, workflow.settings.cluster, workflow.base), own=has_own_code(workflow)
    )
    home = job_place(workflow)
    if place.address is None or home == "command":
        if detach:
            raise _not_detachable(place.address is None)
        return _run_beside_command(workflow, options, place)
    from dataflare.jobs.attending import attend, begin, until_begun

    with RunLock(workflow_folder(options.home, workflow.name), "", utc_text(time.time())):
        pass  # the job would be refused too, but later
    connect(place.address)
    node = own_node()
    if node is None and home == "node":
        if detach:
            raise _not_detachable(False)
        return _run_beside_command(workflow, options, place)
    if node is not None and home == "anywhere":
        node = f"~{node}"
    job = begin(workflow, options, observers, place, node, attended=not detach)
    listen = options.listener or (lambda progress: None)
    if detach:
        until_begun(job, listen)
        return RunResult(workflow.name, job.run_id, "running", None, 0.0, {}, 0, 0)
    return attend(job, listen, options.tell or (lambda result: None))


def _run_beside_command(workflow: Workflow, options: RunOptions, place: Place) -> RunResult:
    """Run the job in this process, and its tasks on workers."""
    from dataflare.cluster.on_ray import workers_for
    from dataflare.jobs.lease import Lease
    from dataflare.jobs.run import run

    workers = workers_for(place, f"{workflow.name} {os.getpid()}-{time.time_ns():x}")
    lease, door = Lease(workers), options.door

    def at_door(watch: Watch) -> AbstractContextManager[object]:
        lease.watch = watch
        return door(watch)

    try:
        follows = follows_workers(workflow)
        workflow = for_workers(workflow, workers.start())
        with lease.renewed():
            more = {"workers": workers, "storage": SharedStore, "door": at_door, "follows": follows}
            return run(workflow, replace(options, **more))
    finally:
        workers.close()


def _not_detachable(is_local: bool) -> ConfigError:
    reason = (
        "local:N ends with the command"
        if is_local
        else "the workflow has connectors of the command's process or machine"
    )
    return ConfigError(
        f"the job cannot run without its command: {reason}",
        code="E0438",
        help="leave out --detach, or use a cluster that was there before, with files and systems that all nodes see",
    )


def placement_on(workflow: Workflow, home: Path, where: str) -> dict[str, Any]:
    """Where the tasks of a workflow would run, as `placement_view` says. Raises as `run_on_cluster` does, and asks the cluster
    only where neither it nor the workflow says how many workers there are."""
    from dataflare.cluster.on_ray import workers_for
    from dataflare.cluster.place import Place
    from dataflare.cluster.placement_view import placement_view

    place = Place.of(where, workflow.settings.cluster, workflow.base)
    workers = place.workers
    if workers is None:
        workers = workers_for(place, "plan").possible()
    workflow = for_workers(workflow, workers)
    specs = deployed(plan(workflow, home=home).stages, None)
    return placement_view(specs, workers)


def found_at(workflow: Workflow, home: Path, where: str) -> Found:
    """Whether a run could begin on a cluster, as one of the workflow's systems."""
    from dataflare.cluster.looking import look_at
    from dataflare.cluster.on_ray import workers_for
    from dataflare.cluster.place import Place

    began = time.monotonic()
    facts: dict[str, str] = {}
    error, workers = None, None
    try:
        place = Place.of(where, workflow.settings.cluster, workflow.base)
        workers = workers_for(place, f"check {os.getpid()}")
        workers.start()
        addresses = asyncio.run(look_at(workers, _place(workflow, home)))
        facts["workers"] = str(len(addresses))
        facts["nodes"] = str(len({host for host, _ in addresses}))
    except DataFlareError as raised:
        error = raised
    finally:
        if workers is not None:
            workers.close()
    return Found("cluster", "cluster", where, time.monotonic() - began, facts, error=error)


def _place(workflow: Workflow, home: Path) -> SharedPlace:
    """Where the checkpoints are."""
    url = bucket_of(workflow.settings.checkpoint.storage)
    if url is None:
        return FolderPlace(storage_of(workflow, home))
    return BucketPlace(url, workflow.name)


def for_workers(workflow: Workflow, workers: int) -> Workflow:
    """The workflow with a task of each step for each worker, unless it says how many."""
    if not follows_workers(workflow):
        return workflow
    return with_parallelism(workflow, min(workers, PARALLELISM_MAX))


def follows_workers(workflow: Workflow) -> bool:
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
