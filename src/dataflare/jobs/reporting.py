"""What a run does beside its tasks while they work: it reports, looks at the disk, and takes the savepoints that users ask for.

Always true: what fails here is warned of once, and ends neither the run nor the reports; a savepoint that takes long holds
up no report.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from dataflare.sdk.threads import completed

if TYPE_CHECKING:
    from dataflare.jobs.disk_bound import DiskBound
    from dataflare.jobs.watching import Watch


async def reporting(watch: Watch, answer: Callable[[], Awaitable[None]]) -> None:
    """Report until it is cancelled. answer: called as often, for those who ask for something."""
    beside = [asyncio.ensure_future(_answering(watch, answer))]
    if watch.disk is not None and watch.disk.is_bound:
        beside.append(asyncio.ensure_future(_measuring(watch, watch.disk)))
    try:
        while True:
            await asyncio.sleep(watch.report_every_s)
            watch.report()
    finally:
        for each in beside:
            each.cancel()
        await completed(asyncio.gather(*beside, return_exceptions=True))


async def _measuring(watch: Watch, disk: DiskBound) -> None:
    while True:
        await asyncio.sleep(max(watch.report_every_s, disk.look_in_s()))
        try:
            await watch.look_at_disk()
        except Exception as error:
            watch.failed_beside("the look at the disk", error)


async def _answering(watch: Watch, answer: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(watch.report_every_s)
        try:
            await answer()
        except Exception as error:  # who asked waits, and is answered by a later try
            watch.failed_beside("a savepoint that was asked for", error)
