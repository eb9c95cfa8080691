"""Channels keep order, stop writers without credit, and align barriers."""

from __future__ import annotations

import asyncio

import polars as pl
import pytest

from dataflare.engine.backpressure import BackpressureController
from dataflare.engine.channel import END, Inbox, MemoryBudget
from dataflare.engine.split_queue import SplitQueue
from dataflare.engine.task import Alignment
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Barrier, Position, Split


def batch(rows: int, first: int = 0) -> SharedDataBatch:
    return SharedDataBatch(pl.DataFrame({"n": range(first, first + rows)}))


def inbox(credits: int = 100, budget_bytes: int = 1 << 30) -> Inbox:
    controller = BackpressureController(mode="fixed", initial_credits=credits, min_credits=1)
    return Inbox("reader", controller, MemoryBudget(budget_bytes, controller))


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_messages_arrive_in_order_and_marks_cost_nothing() -> None:
    async def main() -> None:
        box = inbox(credits=1)
        channel = box.channel(0)
        await channel.send(batch(1_000))
        await channel.send(Barrier(1))
        await channel.send(END)
        found = [(await box.next())[1] for _ in range(3)]  # type: ignore[index]
        assert isinstance(found[0], SharedDataBatch)
        assert found[1:] == [Barrier(1), END]

    asyncio.run(main())


def test_a_writer_without_credit_waits_until_the_reader_is_done() -> None:
    async def main() -> None:
        box = inbox(credits=100)
        channel = box.channel(0)
        first = batch(100)
        await channel.send(first)
        sending = asyncio.ensure_future(channel.send(batch(10)))
        await settle()
        assert not sending.done()
        await box.next()
        await settle()
        assert not sending.done()
        box.done(channel, first, 0.1)
        await settle()
        assert sending.done()

    asyncio.run(main())


def test_a_full_budget_stops_writers_but_an_empty_channel_owns_one_batch() -> None:
    async def main() -> None:
        box = inbox(credits=1_000_000, budget_bytes=1)
        full, other = box.channel(0), box.channel(1)
        await full.send(batch(10))
        await other.send(batch(10))
        waiting = asyncio.ensure_future(full.send(batch(10)))
        await settle()
        assert not waiting.done()
        for _ in range(2):
            channel, message = await box.next()  # type: ignore[misc]
            box.done(channel, message, 0.1)
        await settle()
        assert waiting.done()

    asyncio.run(main())


def test_a_channel_that_showed_its_barrier_is_not_read_until_all_have() -> None:
    async def main() -> None:
        box = inbox()
        left, right = box.channel(0), box.channel(1)
        alignment = Alignment(box)
        await left.send(Barrier(1))
        await left.send(batch(1, first=100))
        await right.send(batch(1))
        seen = []
        while not alignment.complete:
            found = await box.next()
            if found is None:
                continue
            channel, message = found
            if isinstance(message, Barrier):
                alignment.arrived(channel, message)
                if channel is left:
                    await right.send(Barrier(1))
            else:
                seen.append(message.frame["n"].to_list())
        assert seen == [[0]]
        alignment.release()
        assert (await box.next())[1].frame["n"].to_list() == [100]  # type: ignore[index]

    asyncio.run(main())


def test_a_channel_that_ended_holds_no_barrier_back() -> None:
    async def main() -> None:
        box = inbox()
        left, right = box.channel(0), box.channel(1)
        alignment = Alignment(box)
        right.ended = True
        await left.send(Barrier(7))
        channel, message = await box.next()  # type: ignore[misc]
        alignment.arrived(channel, message)
        assert alignment.complete

    asyncio.run(main())


def test_idle_readers_pull_splits_begun_ones_first_and_done_ones_never() -> None:
    splits = [Split(str(i)) for i in range(4)]
    queue = SplitQueue(splits, {"2": Position({"at": 5})}, frozenset({"0"}))
    taken = []
    while (found := queue.take()) is not None:
        taken.append((found[0].id, found[1]))
    assert taken == [("2", Position({"at": 5})), ("1", None), ("3", None)]
    assert len(queue) == 0


@pytest.mark.parametrize("subtasks", [1, 2, 3, 7])
def test_an_exchange_keeps_every_row_and_sends_a_key_to_one_task(subtasks: int) -> None:
    from dataflare.engine.exchange import split_by_key

    frame = pl.DataFrame({"k": [i % 50 for i in range(1_000)], "n": range(1_000)})
    parts = split_by_key(frame, ("k",), subtasks)
    assert pl.concat(parts).sort("n").equals(frame)
    for part in parts:
        assert part["n"].is_sorted()
    owners = [set(part["k"].unique()) for part in parts]
    assert sum(len(owner) for owner in owners) == 50
