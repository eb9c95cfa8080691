"""Look at a cluster before a run: for `dataflare check --cluster`."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from pathlib import Path

from dataflare.checkpoint.shared_places import FolderPlace, SharedPlace
from dataflare.cluster.link import Link
from dataflare.cluster.meeting import leave_mark, take_marks, versions
from dataflare.cluster.orders import Address, Finish, Meet, Met, packed, unpacked
from dataflare.cluster.tls import client_context
from dataflare.cluster.workers import Workers
from dataflare.errors import InternalError
from dataflare.sdk.threads import in_thread


async def look_at(workers: Workers, place: SharedPlace) -> Sequence[Address]:
    """Every worker has the job's versions, sees the place, and reaches each other worker. Gives their addresses. A text for
    each is written there, and removed. Raises as `meeting` says."""
    tls = await client_context(workers.tls)
    peers = tuple(await workers.ready())
    name = f"look/{secrets.token_hex(8)}"
    links = [await Link.connect(each, workers.token, f"job {name}", tls=tls) for each in peers]
    new = _new_folders(place)
    mark = await in_thread(leave_mark, place, name)
    names = {number: link.peer for number, link in enumerate(links)}
    try:
        answers = [_met(link) for link in links]
        for number, link in enumerate(links):
            others = tuple(other for other in range(len(links)) if other != number)
            facts = versions(), place, mark
            link.send_message(packed(Meet(name, number, link.peer, peers, others, *facts)))
        for answer in asyncio.as_completed(answers):
            met = await answer
            if met.failed is not None:
                raise met.failed
        await in_thread(take_marks, place, mark, names)
    finally:
        await in_thread(place.remove, [mark, *(f"{mark}-{number}" for number in names)])
        for each in new:
            with contextlib.suppress(OSError):  # a run has begun meanwhile
                each.rmdir()
        for link in links:
            if not link.lost.done():
                link.send_message(packed(Finish()))
            await link.aclose()
    return peers


def _new_folders(place: SharedPlace) -> list[Path]:
    """Those that are made to write there."""
    folder = place.folder if isinstance(place, FolderPlace) else None
    return [] if folder is None else [f for f in (folder, *folder.parents) if not f.exists()]


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
