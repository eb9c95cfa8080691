"""Look at a cluster before a run: for `dataflare check --cluster`."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from pathlib import Path

from dataflare.cluster.crew import Workers
from dataflare.cluster.link import Link
from dataflare.cluster.meeting import leave_mark, take_marks, versions
from dataflare.cluster.orders import Address, Finish, Meet, Met, packed, unpacked
from dataflare.errors import InternalError
from dataflare.sdk.threads import in_thread


async def look_at(workers: Workers, folder: Path) -> Sequence[Address]:
    """Every worker has the job's versions, sees the folder, and reaches each other worker. Gives their addresses. A file for
    each is written into the folder, and removed. Raises as `meeting` says."""
    peers = tuple(await workers.ready())
    name = f"look/{secrets.token_hex(8)}"
    links = [await Link.connect(each, workers.token, f"job {name}") for each in peers]
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    mark = await in_thread(leave_mark, folder, name)
    names = {number: link.peer for number, link in enumerate(links)}
    try:
        answers = [_met(link) for link in links]
        for number, link in enumerate(links):
            others = tuple(other for other in range(len(links)) if other != number)
            facts = versions(), folder, mark
            link.send_message(packed(Meet(name, number, link.peer, peers, others, *facts)))
        for answer in asyncio.as_completed(answers):
            met = await answer
            if met.failed is not None:
                raise met.failed
        await in_thread(take_marks, folder, mark, names)
    finally:
        for path in folder.glob(f"{mark}*"):
            path.unlink(missing_ok=True)
        for each in new:
            with contextlib.suppress(OSError):  # a run has begun meanwhile
                each.rmdir()
        for link in links:
            if not link.lost.done():
                link.send_message(packed(Finish()))
            await link.aclose()
    return peers


def _met(link: Link) -> asyncio.Future[Met]:
    """The worker's answer, or the error of its link."""
    answer: asyncio.Future[Met] = asyncio.get_running_loop().create_future()

    def heard(message: bytes) -> None:
        order = unpacked(message)
        if not answer.done():
            answer.set_result(order if isinstance(order, Met) else Met(order.failed))

    def lost(future: asyncio.Future[None]) -> None:
        error = future.exception() or InternalError("a worker has left before it answered")
        if not answer.done():
            answer.set_result(Met(error))

    link.on_message = heard
    link.lost.add_done_callback(lost)
    return answer
