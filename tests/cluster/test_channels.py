"""Channels over a link of real sockets: what comes out is what went in, and a slow reader stops its own writer only."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from link_kit import Reader, batch, inbox, joined, linked, run, until

from dataflare.cluster.channels import WINDOW_BYTES, WINDOW_BYTES_MIN, Entry, RemoteChannel
from dataflare.cluster.link import LinkLost
from dataflare.engine.channel import Inbox
from dataflare.engine.gate import Cut, Ended, Rows, Time
from dataflare.engine.pool import ThreadPool
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import END, IDLE, Barrier, Mark, Watermark


async def until_ended(box: Inbox) -> list[object]:
    """What a task reads from its inbox."""
    events: list[object] = []
    while not box.gate.ended:
        event = await box.next()
        if isinstance(event, Rows):
            events.append(event.batch.frame["n"].to_list())
            box.done(event, 0.0)
        elif event is not None:
            events.append(event)
    return events


def test_a_task_reads_what_another_one_sent_it() -> None:
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
            assert await until_ended(box) == [
                *([1, 2], Time(5), [3], Cut(Barrier(1, left_out={"a": 3})), Ended(0)),
            ]
            assert box.budget.channel_bytes == 0

    run(scenario)


# --- the law --------------------------------------------------------------------------------------


@dataclass
class Case:
    """What one channel sends, and how it is read. content: sizes of batches, and marks."""

    content: list[int | Mark]
    allowed: float
    cancels_after: int | None


SIZES = st.sampled_from([0, 1, 3, 100, 5_000, 120_000])
MARKS = st.sampled_from([Watermark(1), IDLE, Barrier(1), Barrier(2, left_out={"a": 1})])
CASES = st.builds(
    Case,
    st.lists(SIZES | MARKS, max_size=12),
    st.sampled_from([float("inf"), 0, 1, 2]),
    st.none() | st.integers(1, 4),
)
WINDOW = 256 << 10
LARGEST = 120_000 * 8 + 20_000
"""Bytes of the largest batch, encoded."""


@pytest.mark.parametrize("pooled", [False, True])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases=st.lists(CASES, min_size=1, max_size=5), seed=st.integers(0, 1 << 20))
def test_channels_come_out_whole_and_in_order(pooled: bool, cases: list[Case], seed: int) -> None:
    """Slow, fast and cancelling readers, in any interleaving."""
    chance = random.Random(seed)
    pool = ThreadPool(2) if pooled else None

    async def write(channel: RemoteChannel, case: Case) -> list[list[int] | Mark]:
        written: list[list[int] | Mark] = []
        for number, item in enumerate(case.content):
            for _ in range(chance.choice([0, 0, 1, 3])):
                await asyncio.sleep(0)
            if isinstance(item, int):
                values = list(range(number, number + item))
                await channel.send(batch(*values))
                written.append(values)
            else:
                channel.put(item)
                written.append(item)
        channel.put(END)
        return [*written, END]

    async def scenario() -> None:
        async with linked(pool=pool) as (link, other):
            readers = [Reader(case.allowed, case.cancels_after) for case in cases]
            channels = [
                joined(link, other, number, reader, window_bytes=WINDOW)
                for number, reader in enumerate(readers)
            ]
            writing = asyncio.gather(*map(write, channels, cases))
            while not (writing.done() and all(r.seen and r.seen[-1] is END for r in readers)):
                chance.choice(readers).allow(1)
                await asyncio.sleep(0.001)
            for case, reader, written in zip(cases, readers, await writing, strict=True):
                expected = _read_of(written, case.cancels_after)
                assert reader.seen == expected
                assert reader.held_bytes <= max(WINDOW, LARGEST)
                assert reader.inbox.budget.channel_bytes == 0
            await until(lambda: all(channel.flying_bytes == 0 for channel in channels))

    try:
        run(scenario)
    finally:
        if pool is not None:
            pool.close()


def _read_of(written: list[list[int] | Mark], cancels_after: int | None) -> list[list[int] | Mark]:
    """What a reader takes that needs only so many batches: marks go on."""
    read: list[list[int] | Mark] = []
    batches = 0
    for item in written:
        if isinstance(item, list):
            batches += 1
            if cancels_after is not None and batches > cancels_after:
                continue
        read.append(item)
    return read


# --- credit ---------------------------------------------------------------------------------------


def test_a_channel_whose_reader_takes_nothing_holds_up_no_other_one() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            stuck, quick = Reader(allowed=0), Reader()
            first = joined(link, other, 1, stuck, window_bytes=10_000)
            second = joined(link, other, 2, quick, window_bytes=10_000)
            sent = 0

            async def fill() -> None:
                nonlocal sent
                while True:
                    await first.send(batch(*range(500)))
                    sent += 1

            filling = asyncio.ensure_future(fill())
            for number in range(200):
                await second.send(batch(*range(number, number + 500)))
            await until(lambda: quick.batches == 200)
            assert stuck.seen == []
            assert sent == 2  # of 4,500 bytes each
            stuck.allow(1)
            await until(lambda: sent == 3)
            filling.cancel()

    run(scenario)


def test_a_batch_that_is_larger_than_the_window_passes_when_no_other_is_on_its_way() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            reader = Reader(allowed=0)
            channel = joined(link, other, 1, reader, window_bytes=1_000)
            await channel.send(batch(*range(100_000)))
            second = asyncio.ensure_future(channel.send(batch(1)))
            await until(lambda: reader.inbox.budget.channel_bytes > 800_000)
            assert not second.done()
            reader.allow(1)
            await second
            assert reader.seen == [list(range(100_000))]

    run(scenario)


def test_a_large_batch_lets_those_of_other_channels_pass() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            order: list[str] = []
            large, small = Reader(), Reader()
            channels = [joined(link, other, n, r) for n, r in enumerate((large, small))]
            await channels[0].send(batch())  # the readers are there
            await channels[1].send(batch())
            for name, reader in (("large", large), ("small", small)):
                reader.put = lambda mark, name=name: order.append(name)  # type: ignore[method-assign]
            await channels[0].send(batch(*range(2_000_000)))
            channels[0].put(END)
            await channels[1].send(batch(1))
            channels[1].put(END)
            await until(lambda: len(order) == 2)
            assert order == ["small", "large"]

    run(scenario)


def test_the_reader_tells_how_many_rows_it_wants_at_once() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            reader = Reader()
            reader.rows_at_once = 40
            channel = joined(link, other, 1, reader)
            await until(lambda: channel.timely_rows() == 40)
            reader.rows_at_once = None
            await channel.send(batch(1))
            await until(lambda: channel.timely_rows() is None)

    run(scenario)


def test_a_writer_waits_for_its_reader_to_be_there() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            channel = RemoteChannel(link, 5)
            channel.put(Watermark(3))
            sending = asyncio.ensure_future(channel.send(batch(1)))
            link.send_message(b"after the mark")
            arrived = asyncio.Event()
            other.on_message = lambda message: arrived.set()
            await arrived.wait()
            assert not sending.done()
            reader = Reader()
            Entry(other, 5, reader)  # type: ignore[arg-type]
            await sending
            await until(lambda: reader.seen == [Watermark(3), [1]])

    run(scenario)


def test_windows_are_a_part_of_the_memory_however_many_channels_there_are() -> None:
    async def scenario() -> None:
        async with linked() as (_, other):
            box = inbox()
            box.budget.budget_bytes = 64 << 20
            entries = [Entry(other, number, box.channel()) for number in range(4)]
            assert [entry.window_bytes for entry in entries] == [2 << 20] * 4
            entries += [Entry(other, number, box.channel()) for number in range(4, 1_000)]
            assert entries[0].window_bytes == WINDOW_BYTES_MIN
            for entry in entries[1:]:
                entry.close()
            assert entries[0].window_bytes == WINDOW_BYTES

    run(scenario)


# --- what is not needed, and what is lost ---------------------------------------------------------


def test_a_reader_that_needs_no_more_rows_stops_its_writer() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            box = inbox()
            Entry(other, 1, box.channel())
            channel = RemoteChannel(link, 1)
            cancelled = asyncio.Event()
            channel.on_cancel = cancelled.set
            await channel.send(batch(1))
            box.cancel(0)
            await cancelled.wait()
            assert channel.cancelled
            await channel.send(batch(2))
            channel.put(END)
            assert await until_ended(box) == [Ended(0)]

    run(scenario)


def test_a_reader_that_needed_no_rows_before_the_writer_was_there_says_so() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            reader = Reader()
            reader.cancelled = True
            channel = joined(link, other, 1, reader)
            await until(lambda: channel.cancelled)

    run(scenario)


def test_a_lost_link_raises_its_error_in_every_sender_that_waits() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            reader = Reader(allowed=0)
            channel = joined(link, other, 1, reader, window_bytes=100)
            await channel.send(batch(1))
            waiting = [
                asyncio.ensure_future(channel.send(batch(2))),
                asyncio.ensure_future(RemoteChannel(link, 2).send(batch(1))),
            ]
            await until(lambda: reader.inbox.budget.channel_bytes > 0)
            other.fail("the test ends it")
            for sending in waiting:
                with pytest.raises(LinkLost, match="'writer' has lost the connection to 'reader'"):
                    await sending
            with pytest.raises(LinkLost):
                await channel.send(batch(3))
            with pytest.raises(LinkLost):
                channel.put(END)

    run(scenario)


def test_what_has_not_come_in_when_a_link_ends_is_dropped() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            reader = Reader(allowed=0)
            channel = joined(link, other, 1, reader)
            for value in range(3):
                await channel.send(batch(value))
            await until(lambda: reader.inbox.budget.channel_bytes > 0)
            link.fail("the test ends it")
            with pytest.raises(LinkLost):
                await other.lost
            reader.allow(1)
            await until(lambda: reader.inbox.budget.channel_bytes == 0)
            assert reader.seen == [[0]]

    run(scenario)


def test_a_closed_channel_leaves_its_number_to_another_one() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            for value in range(3):
                reader = Reader()
                entry = Entry(other, 1, reader)  # type: ignore[arg-type]
                channel = RemoteChannel(link, 1)
                await channel.send(batch(value))
                await until(lambda reader=reader, value=value: reader.seen == [[value]])
                entry.close()
                await until(lambda channel=channel: channel.flying_bytes == 0)
                channel.close()

    run(scenario)


def test_rows_that_cannot_be_read_end_the_link() -> None:
    async def scenario() -> None:
        async with linked() as (link, other):
            channel = joined(link, other, 1, Reader())
            await channel.send(batch(1))
            frame = pl.DataFrame({"a": pl.Series([[]], dtype=pl.Array(pl.Int8, 0))})
            await channel.send(SharedDataBatch(frame))
            with pytest.raises(LinkLost, match="it sent rows that cannot be read"):
                await other.lost

    run(scenario)
