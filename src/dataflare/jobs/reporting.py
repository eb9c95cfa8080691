"""What a run does beside its tasks while they work: it reports, looks at the disk, and takes the savepoints that users ask for.

Always true: what fails here is warned of once, and ends neither the run nor the reports; a savepoint that takes long holds
up no report.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from dataflare.engine.messages import Fail
from dataflare.errors import RunError
from dataflare.sdk.threads import completed, in_thread

if TYPE_CHECKING:
    from dataflare.jobs.watching import Watch


async def reporting(watch: Watch, answer: Callable[[], Awaitable[None]]) -> None:
    """Report until it is cancelled. answer: called as often, for those who ask for something."""
    beside = [asyncio.ensure_future(_answering(watch, answer))]
    if watch.disk.is_bound:
        beside.append(asyncio.ensure_future(_measuring(watch)))
    try:
        while True:
            await asyncio.sleep(watch.report_every_s)
            watch.report()
    finally:
        for each in beside:
            each.cancel()
        await completed(asyncio.gather(*beside, return_exceptions=True))


async def _measuring(watch: Watch) -> None:
    """End the attempt where the run has more on disk than it may."""
    while True:
        await asyncio.sleep(max(watch.report_every_s, watch.disk.look_in_s()))
        try:
            await in_thread(watch.disk.check)
        except RunError as error:
            if watch.attempt is not None and watch.attempt.coordinator is not None:
                watch.attempt.coordinator.fail(Fail("disk", error))
        except Exception as error:
            watch.failed_beside("the look at the disk", error)


async def _answering(watch: Watch, answer: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(watch.report_every_s)
        try:
            await answer()
        except Exception as error:  # who asked waits, and is answered by a later try
            watch.failed_beside("a savepoint that was asked for", error)
