"""The command of a job that runs in an actor: it shows what the job says, and passes signals on."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from dataflare.checkpoint.runs import new_run_id
from dataflare.jobs.hosted_job import HostedJob, JobOrder, Observers, Told, environment
from dataflare.jobs.interrupts import interruptible
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.cluster.on_ray import RayJob
    from dataflare.cluster.place import Place
    from dataflare.jobs.options import RunOptions
    from dataflare.jobs.progress import Progress
    from dataflare.jobs.result import RunResult
    from dataflare.workflow.model import Workflow

_BETWEEN_S = 0.25
"""The least time between two questions."""


def begin(
    workflow: Workflow,
    options: RunOptions,
    observers: Observers,
    place: Place,
    node: str | None,
    *,
    attended: bool,
) -> RayJob:
    """Begin a job on a cluster that this process is connected to. node: as `RayJob.begin` says. Raises ConfigError (E0437),
    SystemError_ (E0617)."""
    from dataflare.cluster.on_ray import RayJob

    run_id = new_run_id()
    plain = replace(
        options, run_id=run_id, listener=None, tell=None, end=None, observers=(), stdout=None
    )
    plain = replace(plain, door=type(options)(home=options.home).door)
    order = JobOrder(workflow, plain, observers, Path.cwd(), environment(), attended)
    return RayJob.begin(HostedJob, order.packed(), f"{workflow.name} {run_id}", place, node)


def attend(
    job: RayJob,
    listen: Callable[[Progress], None],
    tell: Callable[[RunResult], None],
) -> RunResult:
    """Show what the job says until it ends. tell: shows the result. Raises the error that a job did not begin for, and
    SystemError_ (E0840, E0841) where the cluster or the job is lost. The first SIGINT or SIGTERM lets the job take a
    checkpoint and end; the second ends job and command at once."""
    return asyncio.run(_attended(job, listen, tell))


async def _attended(
    job: RayJob, listen: Callable[[Progress], None], tell: Callable[[RunResult], None]
) -> RunResult:
    with interruptible(lambda: job.stop(), now=job.kill):
        told = await _over(job, listen)
        if told.error is not None:
            await in_thread(job.told)
            raise told.error
        assert told.result is not None
        tell(told.result)
        await in_thread(job.told)
        return told.result


def until_begun(job: RayJob, listen: Callable[[Progress], None]) -> None:
    """Return when a job reads rows, or has finished. Raises as `attend` does, and the error that ended it."""
    told = asyncio.run(_over(job, listen, until="running"))
    error = told.error or (told.result.error if told.result is not None else None)
    if error is not None:
        raise error


async def _over(job: RayJob, listen: Callable[[Progress], None], until: str | None = None) -> Told:
    """What the job said last. until: a status that is enough."""
    number, process = 0, 0
    while True:
        asked_at = time.monotonic()
        answer = await in_thread(job.since, number)
        if answer is not None:
            told = pickle.loads(answer)
            assert isinstance(told, Told)
            if told.process != process and process:
                number, process = 0, told.process
                continue
            number, process = told.number, told.process
            for progress in told.progress:
                listen(progress)
            if told.result is not None or told.error is not None or told.status == until:
                return told
        await asyncio.sleep(max(0.0, asked_at + _BETWEEN_S - time.monotonic()))
