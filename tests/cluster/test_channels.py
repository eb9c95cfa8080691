"""Channels over a link of real sockets: what comes out is what went in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import polars as pl
import pytest

from dataflare.cluster.channels import Entry, RemoteChannel
from dataflare.cluster.link import Link, LinkLost, LinkServer
from dataflare.engine.backpressure import BackpressureController
from dataflare.engine.channel import Inbox, MemoryBudget
from dataflare.engine.gate import Cut, Ended, Rows, Time
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import END, Barrier, Watermark

TOKEN = b"a token of the job"


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[Link, Link]]:
    """Both sides of a link."""
    accepted: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    server = LinkServer(TOKEN, "reader", accepted.set_result)
    address = await server.start()
    link = await Link.connect(address, TOKEN, "writer")
    other = await accepted
    try:
        yield link, other
    finally:
        await link.aclose()
        await other.aclose()
        await server.aclose()


def inbox(credits: int = 100_000) -> Inbox:
    controller = BackpressureController(initial_credits=credits, max_credits=credits)
    return Inbox("reader", controller, MemoryBudget(1 << 30, controller))


async def until_ended(box: Inbox) -> list[object]:
    events: list[object] = []
    while not box.gate.ended:
        event = await box.next()
        if isinstance(event, Rows):
            events.append(event.batch.frame["n"].to_list())
            box.done(event, 0.0)
        elif event is not None:
            events.append(event)
    return events


def batch(*values: int) -> SharedDataBatch:
    return SharedDataBatch(pl.DataFrame({"n": values}))


def test_rows_and_marks_come_out_in_order() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            box = inbox()
            Entry(other, 7, box.channel())
            channel = RemoteChannel(link, 7)
            await channel.send(batch(1, 2))
            channel.put(Watermark(5))
            await channel.send(batch(3))
            channel.put(Barrier(1, left_out={"a": 3}))
            channel.put(END)
            async with asyncio.timeout(30):
                events = await until_ended(box)
            assert events == [
                [1, 2],
                Time(5),
                [3],
                Cut(Barrier(1, left_out={"a": 3})),
                Ended(0),
            ]

    asyncio.run(scenario())


def test_messages_come_in_order() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            received: list[bytes] = []
            done = asyncio.Event()

            def on_message(message: bytes) -> None:
                received.append(message)
                if message == b"last":
                    done.set()

            sent = [b"", b"small", b"x" * 3_000_000, b"again", b"last"]
            for message in sent:
                link.send_message(message)
            other.on_message = on_message
            async with asyncio.timeout(30):
                await done.wait()
            assert received == sent

    asyncio.run(scenario())


def test_a_link_that_is_aborted_raises_its_error_in_the_sender() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            channel = RemoteChannel(link, 1)
            waiting = asyncio.ensure_future(channel.send(batch(1)))
            other.fail("the test ends it")
            async with asyncio.timeout(30):
                with pytest.raises(LinkLost, match="'writer' has lost the connection to 'reader'"):
                    await waiting
                with pytest.raises(LinkLost):
                    await link.lost

    asyncio.run(scenario())
