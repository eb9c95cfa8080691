"""The connection that reads a slot: opened, and begun at a position."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import psycopg

from dataflare.connectors.postgres.catalog import Connection
from dataflare.connectors.postgres.cdc import objects
from dataflare.connectors.postgres.cdc.following import Following
from dataflare.connectors.postgres.cdc.objects import Names
from dataflare.connectors.postgres.cdc.wire import Replication
from dataflare.errors import DataFlareError

_CANCEL_S = 5.0
_PAGE, _HEADERS = 8192, (24, 40)
"""Of the log: a position right behind the header of a page is the same as one right before it."""
_TAKEN_S, _TAKEN_LOOK_S = 10.0, 0.1
"""How long to wait for a slot that an earlier attempt of this source may have left a moment ago."""


def connected(following: Following, names: Names) -> Replication:
    try:
        return Replication(following.server, f"{following.application} (log)")
    except DataFlareError as error:
        cause = error.__cause__
        refused = objects.refused(cause, names) if isinstance(cause, psycopg.Error) else None
        if refused is None:
            raise
        raise refused from cause


def begin(
    replication: Replication, db: Connection, names: Names, lsn: int, is_closed: Callable[[], bool],
    *, in_pieces: bool,
) -> None:  # fmt: skip
    """Raises psycopg's errors."""
    end = time.monotonic() + _TAKEN_S
    while True:
        try:
            replication.start(names.slot, names.publication, lsn, in_pieces=in_pieces)
            return
        except psycopg.errors.ObjectInUse as error:
            if time.monotonic() > end or is_closed():
                raise objects.in_use(db, names) from error
        except psycopg.Error as error:
            refused = objects.refused(error, names)
            if refused is None:
                raise
            raise refused from error
        time.sleep(_TAKEN_LOOK_S)


async def readable(socket: int, wait_s: float) -> None:
    """Until something has come, or for some time."""
    loop, came = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(socket, came.set)
    try:
        async with asyncio.timeout(wait_s):
            await came.wait()
    except TimeoutError:
        return
    finally:
        loop.remove_reader(socket)


def cancel(db: psycopg.Connection[Any]) -> None:
    """End its statement: one that makes a slot waits for all transactions that are open."""
    with contextlib.suppress(psycopg.Error):  # it has ended meanwhile
        db.cancel_safe(timeout=_CANCEL_S)


def real(until: int) -> int:
    """The position before the header of a page, where one is right behind it."""
    return until - until % _PAGE if until % _PAGE in _HEADERS else until
