"""The start of a run, up to the moment that it has a plan and knows what it continues.

A start that a system or its data makes fail is tried again as `settings.restart` says, and is a run that failed: it is
recorded and logged, and who watches runs is told. A start that is refused because of the workflow is not a run.

Always true: a start that fails changes nothing of what the next run continues.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace

from dataflare.checkpoint.runs import RunFailure, RunRecord, utc_text
from dataflare.errors import CheckpointError, DataFlareError
from dataflare.jobs.alerting import alerting
from dataflare.jobs.closing import result_of
from dataflare.jobs.failures import Restarts, as_dataflare_error, place
from dataflare.jobs.interrupts import LeftEarly
from dataflare.sdk.threads import completed, in_thread

if TYPE_CHECKING:
    from dataflare.jobs.lineage import Lineage
    from dataflare.jobs.watching import Watch

T = TypeVar("T")
_STOPS = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, LeftEarly)


async def restarted(begin: Callable[[], Awaitable[T]], watch: Watch, restarts: Restarts) -> T:
    """What `begin` gives, tried again after errors that may be retried."""
    while True:
        try:
            return await begin()
        except _STOPS:
            raise
        except BaseException as raised:
            error = place(watch.workflow, as_dataflare_error(raised))
            delay = restarts.delay_s(error) if _fails(error) else None
            if delay is None:
                raise
        watch.restarting(error, delay)
        await asyncio.sleep(delay)


@contextlib.asynccontextmanager
async def recorded_start(watch: Watch, lineage: Callable[[], Lineage]) -> AsyncIterator[None]:
    """Record a start that fails inside the `with`, and tell of it. The error is raised as it is. The workflow's lock is
    held. lineage: where the run would be recorded."""
    try:
        yield
    except _STOPS:
        raise
    except BaseException as raised:
        error = place(watch.workflow, as_dataflare_error(raised))
        if _fails(error):
            await completed(_record(watch, lineage(), error))
        raise


def _fails(error: DataFlareError) -> bool:
    """Whether a run failed. What is refused for its workflow has not run."""
    return error.exit_status != 2


async def _record(watch: Watch, lineage: Lineage, error: DataFlareError) -> None:
    record = await in_thread(_record_of, lineage, watch.started_at)
    watch.recorder.folder = lineage.folder
    try:
        await in_thread(lineage.log.start, record)
    except (OSError, DataFlareError) as unwritten:
        watch.warn([f"this run is not recorded: {unwritten}"])
    try:
        with watch.watched():
            async with alerting(watch, lineage.folder):
                watch.ended("failed", error)
    except (OSError, DataFlareError) as untold:  # the error that ended the run comes first
        watch.failed_beside("what watches the run", untold)
    result = result_of(watch, "failed", error, None, {}, {}, {})
    await watch.recorder.end(result)
    failure = RunFailure.of(error)
    ended = replace(record, status="failed", ended_at=utc_text(time.time()), error=failure)
    # A full disk may refuse it.
    with contextlib.suppress(OSError, DataFlareError):
        await in_thread(lineage.log.finish, ended)


def _record_of(lineage: Lineage, started_at: float) -> RunRecord:
    try:
        current = lineage.log.current()
    except CheckpointError:
        current = None
    of, attempt = (current.lineage, current.attempt) if current is not None else ("", 0)
    return replace(lineage.record_of(of, attempt), started_at=utc_text(started_at))
