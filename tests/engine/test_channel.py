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
from dataflare.model.batch import KIND_COLUMN, SharedDataBatch, truncation
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
        assert (box.budget.channel_bytes, box._controller.outstanding("reader")) == (0, 0)

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


class Joining:
    """A reader that takes small batches as one, and never in place."""

    joins_batches = True

    def takes_at_once(self, batch: SharedDataBatch) -> bool:
        return False

    async def take(self, rows: Rows) -> None:
        raise AssertionError("nothing is handed over in place")

    def timely_rows(self) -> int | None:
        return None


def joining(credits: int = 100) -> Inbox:
    box = inbox(credits)
    box.receiver = Joining()
    return box


def numbers(rows: object) -> list[int]:
    assert isinstance(rows, Rows)
    return rows.batch.frame["n"].to_list()


def test_small_batches_that_wait_come_out_as_one_and_give_back_the_credit_of_each_channel() -> None:
    async def main() -> None:
        box = joining(credits=4)
        one, two = box.channel(), box.channel()
        await one.send(batch(2, 0))
        await two.send(batch(1, 10))
        await one.send(batch(1, 2))
        waiting = [asyncio.ensure_future(each.send(batch(1, 20))) for each in (one, two)]
        await settle()
        assert not any(each.done() for each in waiting)
        rows = await box.next()
        assert isinstance(rows, Rows)
        assert sorted(numbers(rows)) == [0, 1, 2, 10]
        assert [n for n in numbers(rows) if n < 10] == [0, 1, 2]
        assert box.queued_rows == 4
        box.done(rows, 0.1)
        await settle()
        assert all(each.done() for each in waiting)
        assert box.queued_rows == 2

    run(main())


def test_no_batch_passes_a_mark() -> None:
    async def main() -> None:
        box = joining()
        one, two = box.channel(), box.channel()
        await one.send(batch(1, 0))
        one.put(Barrier(1))
        await one.send(batch(1, 1))
        await two.send(batch(1, 10))
        await two.send(batch(1, 11))
        before = [numbers(await box.next())]
        while box.gate.ended is False and sum(map(len, before)) < 3:
            before.append(numbers(await box.next()))
        assert sorted(n for part in before for n in part) == [0, 10, 11]
        two.put(Barrier(1))
        assert await box.next() == Cut(Barrier(1))
        assert numbers(await box.next()) == [1]

    run(main())


def test_large_batches_other_inputs_and_other_columns_stay_apart() -> None:
    async def main() -> None:
        box = joining(credits=10_000)
        one, other = box.channel(), box.channel(port=1)
        sent = [batch(400), batch(101), batch(600), SharedDataBatch(pl.DataFrame({"m": [1]}))]
        for each in sent:
            await one.send(each)
        await other.send(batch(1))
        found = [await box.next() for _ in range(5)]
        assert sorted(len(each.batch) for each in found if isinstance(each, Rows)) == [
            1,
            1,
            101,
            400,
            600,
        ]
        await one.send(batch(1, 1))
        await one.send(batch(1, 2))
        await other.send(batch(1, 3))
        apart = [await box.next() for _ in range(2)]
        assert sorted(numbers(each) for each in apart) in ([[1, 2], [3]], [[1], [2]], [[1], [3]])

    run(main())


def test_a_truncate_stays_alone() -> None:
    async def main() -> None:
        box = joining()
        channel = box.channel()
        rows = pl.DataFrame({"n": [1], KIND_COLUMN: pl.Series([0], dtype=pl.UInt8)})
        for frame in (rows, rows, truncation(rows.schema), rows, rows):
            await channel.send(SharedDataBatch(frame))
        assert [numbers(await box.next()) for _ in range(3)] == [[1, 1], [None], [1, 1]]

    run(main())
