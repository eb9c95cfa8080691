"""Batches that are handed over in place: a task is never in two calls at once, rows keep their order, barriers their place,
and what is cancelled or fails ends as it does with a channel between the tasks."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import polars as pl
import pytest
from task_bench import SCHEMA, Heard, run, settle

from dataflare.engine.backpressure import BackpressureController
from dataflare.engine.body import Body
from dataflare.engine.channel import Channel, Inbox, MemoryBudget
from dataflare.engine.gate import GateState
from dataflare.engine.messages import Deploy, Inlet, Share
from dataflare.engine.metrics import TaskMetrics
from dataflare.engine.pool import ThreadPool
from dataflare.engine.segments import Outcome
from dataflare.engine.task import Output, Task
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import END, IDLE, Barrier, Watermark
from dataflare.planner.physical import Stage


class Watched(Body):
    """Passes rows on, in one call at a time, and notes what comes in which order.

    chance: whether it takes a batch in place, and how long it waits in between. wanted: how many rows it needs.
    fails_at: the value at which it fails."""

    def __init__(
        self, chance: random.Random, wanted: int = 1 << 30, fails_at: int | None = None
    ) -> None:
        self._chance, self._wanted, self._fails_at = chance, wanted, fails_at
        self.seen: list[object] = []
        self.ways: Counter[str] = Counter()
        self._busy = False

    def takes_at_once(self, batch: SharedDataBatch) -> bool:
        return self._chance.random() < 0.7

    async def rows(self, port: int, batch: SharedDataBatch) -> float:
        assert not self._busy, "one call at a time"
        self._busy = True
        in_place = asyncio.current_task() is not self.task_of_its_own
        self.ways["in place" if in_place else "by the channel"] += 1
        value = batch.frame["n"][0]
        if value == self._fails_at:
            raise ValueError(f"{value} is refused")
        self.seen.append(value)
        for _ in range(self._chance.choice([0, 0, 1, 3])):
            await asyncio.sleep(0)
        await self.task.emit(Outcome(frames=[(0, batch.frame)] if self.has_output else []))
        self._busy = False
        self._wanted -= 1
        if self._wanted <= 0:
            self.cancel()
        return 0.0

    async def time(self, event_time_us: int) -> int:
        assert not self._busy
        self.seen.append(Watermark(event_time_us))
        return event_time_us

    async def finish(self) -> None:
        assert not self._busy

    def freeze(self, epoch: int) -> Share:
        assert not self._busy
        self.seen.append(Barrier(epoch))
        return Share(self.task.id, epoch)

    has_output = True
    task_of_its_own: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        self.task_of_its_own = asyncio.ensure_future(self.task.run())
        return self.task_of_its_own


class Line:
    """Senders, a task behind them, and one more behind that."""

    def __init__(self, first: Watched, second: Watched, senders: int) -> None:
        controller = BackpressureController(mode="fixed", initial_credits=3, min_credits=1)
        budget = MemoryBudget(1 << 30, controller)
        inboxes = [Inbox(name, controller, budget) for name in ("first", "second")]
        self.ins: list[Channel] = [inboxes[0].channel() for _ in range(senders)]
        between = inboxes[1].channel()
        self.pool, self.budget, self.controller = ThreadPool(1), budget, controller
        self.inboxes, self.bodies = inboxes, (first, second)
        second.has_output = False
        for inbox, body, outputs in (
            (inboxes[0], first, [Output(0, "forward", (), (between,))]),
            (inboxes[1], second, []),
        ):
            stage = Stage(0, inbox.task, (inbox.task,), 1, SCHEMA)
            inlets = tuple(Inlet(n, f"s[{n}]") for n in range(len(inbox.channels)))
            Task(
                Deploy(inbox.task, stage, 0, inlets),
                body,
                outputs=outputs,
                inbox=inbox,
                pool=self.pool,
                metrics=TaskMetrics({inbox.task: "transformation"}),
                control=Heard(),
                letters=pl.concat,
            )

    def start(self) -> list[asyncio.Task[None]]:
        return [body.start() for body in self.bodies]


def batch(value: int) -> SharedDataBatch:
    return SharedDataBatch(pl.DataFrame({"n": [value]}))


async def sender(
    chance: random.Random, line: Line, number: int, begin: Callable[[int], asyncio.Event]
) -> None:
    """Rows and marks of three epochs, each behind the cut of the one before."""
    channel, value = line.ins[number], number * 1_000
    for epoch in range(1, 4):
        for _ in range(chance.randrange(6)):
            value += 1
            await channel.send(batch(value))
            match chance.randrange(5):
                case 0:
                    await asyncio.sleep(0)
                case 1:
                    channel.put(Watermark(value % 1_000))
                case 2:
                    channel.put(IDLE)
        channel.put(Barrier(epoch))
        if chance.random() < 0.7:  # else rows of the next epoch stand behind its barrier
            await begin(epoch).wait()
    channel.put(END)


def test_rows_and_marks_keep_their_order_over_random_interleavings() -> None:
    ways: Counter[str] = Counter()

    async def one(seed: int) -> None:
        chance = random.Random(seed)
        first, second = Watched(chance), Watched(chance)
        line = Line(first, second, senders := chance.randint(1, 3))
        cut = {epoch: asyncio.Event() for epoch in range(1, 4)}
        line.bodies[0].task.control.share = (  # type: ignore[method-assign]
            lambda share: cut[share.epoch].set() if share.epoch else None
        )
        tasks = line.start()
        await asyncio.gather(
            *tasks, *(sender(chance, line, n, cut.__getitem__) for n in range(senders))
        )
        for body in line.bodies:
            rows = [each for each in body.seen if isinstance(each, int)]
            for number in range(senders):
                own = [n for n in rows if n // 1_000 == number]
                assert own == list(range(number * 1_000 + 1, number * 1_000 + len(own) + 1)), seed
            assert [e for e in body.seen if isinstance(e, Barrier)] == [
                Barrier(n) for n in (1, 2, 3)
            ]
            ways.update(body.ways)
        # Between two barriers both have the same rows: the cut has exactly the rows before it.
        assert [e for e in first.seen if not isinstance(e, Watermark)] == [
            e for e in second.seen if not isinstance(e, Watermark)
        ], seed
        assert (line.budget.channel_bytes, line.inboxes[0].queued_rows) == (0, 0), seed
        assert [line.controller.outstanding(name) for name in ("first", "second")] == [0, 0], seed
        line.pool.close()

    for seed in range(200):
        run(one(seed))
    assert min(ways["in place"], ways["by the channel"]) > 300, ways


def test_rows_behind_a_barrier_wait_for_the_barriers_of_the_other_channels() -> None:
    async def main() -> None:
        always = random.Random(1)
        always.random = lambda: 0.0  # type: ignore[method-assign]
        first = Watched(always)
        line = Line(first, Watched(always), 2)
        tasks = line.start()
        await settle()
        left, right = line.ins
        await left.send(batch(1))
        left.put(Barrier(1))
        await left.send(batch(2))
        await right.send(batch(3))
        await settle()
        assert first.seen == [1, 3]
        right.put(Barrier(1))
        await settle()
        assert first.seen == [1, 3, Barrier(1), 2]
        for channel in line.ins:
            channel.put(END)
        await asyncio.gather(*tasks)
        line.pool.close()

    run(main())


@pytest.mark.parametrize("seed", range(20))
def test_a_task_that_needs_no_more_cancels_in_the_middle_of_a_batch(seed: int) -> None:
    async def main() -> None:
        chance = random.Random(seed)
        first, second = Watched(chance), Watched(chance, wanted=3)
        line = Line(first, second, 1)
        tasks = line.start()
        await settle()
        (channel,) = line.ins
        for value in range(20):
            await channel.send(batch(value))
        channel.put(END)
        await asyncio.gather(*tasks)
        assert channel.cancelled
        assert second.seen == [0, 1, 2]
        assert len(first.seen) < 20
        assert line.budget.channel_bytes == 0
        line.pool.close()

    run(main())


@pytest.mark.parametrize("seed", range(20))
def test_an_error_ends_one_of_the_tasks_or_their_sender(seed: int) -> None:
    async def main() -> None:
        chance = random.Random(seed)
        line = Line(Watched(chance), Watched(chance, fails_at=5), 1)
        tasks: list[asyncio.Future[None]] = [*line.start()]
        await settle()

        async def send() -> None:
            for value in range(100):
                await line.ins[0].send(batch(value))
                await asyncio.sleep(0)

        tasks.append(asyncio.ensure_future(send()))
        done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert [str(task.exception()) for task in done] == ["5 is refused"]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        assert all(task.done() for task in tasks)
        line.pool.close()

    run(main())


def test_a_sender_that_is_cancelled_leaves_nothing_under_way() -> None:
    async def main() -> None:
        entered, go_on = asyncio.Event(), asyncio.Event()

        class Slow(Watched):
            async def rows(self, port: int, batch: SharedDataBatch) -> float:
                entered.set()
                await go_on.wait()
                return await super().rows(port, batch)

        always = random.Random(1)
        always.random = lambda: 0.0  # type: ignore[method-assign]
        first = Slow(always)
        line = Line(first, Watched(always), 1)
        tasks = line.start()
        await settle()
        sending = asyncio.ensure_future(line.ins[0].send(batch(1)))
        await entered.wait()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        go_on.set()
        assert first.seen == []
        line.ins[0].put(END)  # what comes later is still read
        await asyncio.gather(*tasks)
        line.pool.close()

    run(main())


def test_what_passes_through_the_gate_is_what_would_come_out_of_it() -> None:
    rows = batch(1)
    for seed in range(1_000):
        chance = random.Random(seed)
        ports = [0, *chance.choices([0, 1], k=chance.randrange(3))]
        gate, plain = GateState(ports), GateState(ports)
        for _ in range(40):
            number = chance.randrange(len(ports))
            draw = chance.randrange(8)
            if draw < 4 and gate.is_clear(number) and not plain._channels[number].closed:
                assert plain.put(number, rows)
                assert gate.pass_through(number, rows) == plain.next(), seed
                continue
            if draw == 4:
                assert gate.next() == plain.next(), seed
                continue
            if gate._channels[number].closed or gate._channels[number].blocked:
                continue
            message = (rows, Watermark(chance.randrange(9)), IDLE, Barrier(1), END)[
                chance.choice([0, 0, 1, 1, 2, 2, 3, 4])
            ]
            if isinstance(message, Barrier) and Barrier(1) in gate._channels[number].messages:
                continue
            gate.put(number, message)
            plain.put(number, message)
        while True:
            event = gate.next()
            assert event == plain.next(), seed
            if event is None:
                break
