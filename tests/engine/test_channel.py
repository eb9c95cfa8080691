"""Channels keep order, and stop writers without credit."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import polars as pl
import pytest

from dataflare.engine.backpressure import BackpressureController
from dataflare.engine.channel import Inbox, MemoryBudget
from dataflare.engine.gate import Cut, Ended, Rows
from dataflare.engine.split_queue import SplitQueue
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import END, Barrier, Position, Split


def batch(rows: int, first: int = 0) -> SharedDataBatch:
    return SharedDataBatch(pl.DataFrame({"n": range(first, first + rows)}))


def inbox(credits: int = 100, budget_bytes: int = 1 << 30) -> Inbox:
    controller = BackpressureController(mode="fixed", initial_credits=credits, min_credits=1)
    return Inbox("reader", controller, MemoryBudget(budget_bytes, controller))


def run(main: Coroutine[Any, Any, None]) -> None:
    """A test that would wait for ever fails."""
    asyncio.run(asyncio.wait_for(main, 20))


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_messages_arrive_in_order_and_marks_cost_nothing() -> None:
    async def main() -> None:
        box = inbox(credits=1)
        channel = box.channel()
        first = batch(1_000)
        await channel.send(first)
        channel.put(Barrier(1))
        channel.put(END)
        found = [await box.next() for _ in range(3)]
        assert found == [Rows(0, first, 0), Cut(Barrier(1)), Ended(0)]

    run(main())


def test_a_writer_without_credit_waits_until_the_reader_is_done() -> None:
    async def main() -> None:
        box = inbox(credits=100)
        channel = box.channel()
        await channel.send(batch(100))
        sending = asyncio.ensure_future(channel.send(batch(10)))
        await settle()
        assert not sending.done()
        rows = await box.next()
        assert isinstance(rows, Rows)
        await settle()
        assert not sending.done()
        box.done(rows, 0.1)
        await settle()
        assert sending.done()

    run(main())


def test_a_full_budget_stops_writers_but_an_empty_channel_owns_one_batch() -> None:
    async def main() -> None:
        box = inbox(credits=1_000_000, budget_bytes=1)
        full, other = box.channel(), box.channel()
        await full.send(batch(10))
        await other.send(batch(10))
        waiting = asyncio.ensure_future(full.send(batch(10)))
        await settle()
        assert not waiting.done()
        for _ in range(2):
            rows = await box.next()
            assert isinstance(rows, Rows)
            box.done(rows, 0.1)
        await settle()
        assert waiting.done()

    run(main())


def test_a_cancelled_input_lets_its_writers_go_on_and_gives_their_credit_back() -> None:
    async def main() -> None:
        box = inbox(credits=10)
        channel, other = box.channel(), box.channel(port=1)
        told: list[bool] = []
        channel.on_cancel = lambda: told.append(True)
        await channel.send(batch(100))
        waiting = asyncio.ensure_future(channel.send(batch(100)))
        await settle()
        assert not waiting.done()
        box.cancel(0)
        await settle()
        assert waiting.done()
        await channel.send(batch(100))
        channel.put(END)
        assert (told, box.queued_rows) == ([True], 0)
        kept = batch(100)
        await other.send(kept)
        assert [await box.next(), await box.next()] == [Ended(0), Rows(1, kept, 1)]

    run(main())


def test_bytes_that_another_reader_gives_back_wake_a_waiting_writer() -> None:
    async def main() -> None:
        controller = BackpressureController(mode="fixed", initial_credits=1_000_000)
        budget = MemoryBudget(batch(10).num_bytes, controller)
        here, there = Inbox("here", controller, budget), Inbox("there", controller, budget)
        channel, other = here.channel(), there.channel()
        await channel.send(batch(1))
        await other.send(batch(10))
        assert budget.full, "of exactly so many bytes and one row more"
        waiting = asyncio.ensure_future(channel.send(batch(1)))
        await settle()
        assert not waiting.done()
        rows = await there.next()
        assert isinstance(rows, Rows)
        there.done(rows, 0.1)
        await settle()
        assert waiting.done()
        assert not budget.waiting, "asked once for each time that it waits"

    run(main())


def test_a_budget_is_full_when_its_last_byte_is_taken() -> None:
    budget = MemoryBudget(100, BackpressureController())
    budget.add(60)
    budget.set_state("t", 39)
    assert not budget.full
    budget.set_state("t", 40)
    assert budget.full
    assert budget.controller.memory_pressure == 1.0


def test_what_is_sent_to_a_cancelled_input_takes_no_credit() -> None:
    async def main() -> None:
        box = inbox(credits=10)
        channel = box.channel()
        told: list[bool] = []
        channel.on_cancel = lambda: told.append(True)
        await channel.send(batch(100))
        taken = await box.next()
        assert isinstance(taken, Rows)
        waiting = asyncio.ensure_future(channel.send(batch(100)))
        await settle()
        box.cancel(0)
        await settle()
        assert waiting.done(), "also where no batch waits that would give credit back"
        box.cancel(0)
        assert told == [True]
        for _ in range(3):
            await channel.send(batch(100))
        box.done(taken, 0.1)
        assert (box._budget.channel_bytes, box._controller.outstanding("reader")) == (0, 0)

    run(main())


def test_idle_readers_pull_splits_begun_ones_first_and_done_ones_never() -> None:
    splits = [Split(str(i)) for i in range(4)]
    queue = SplitQueue(splits, {"2": Position({"at": 5})}, frozenset({"0"}))
    taken = []
    while (found := queue.take()) is not None:
        taken.append((found.split.id, found.position))
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
