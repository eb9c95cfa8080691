"""A task through its epochs: who brings the barrier, what is sent before it, and what the answer holds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import ClassVar

from task_bench import ROWS, Bench, run, settle

from dataflare.engine.body import Body
from dataflare.engine.gate import Cut, Ended, Idle, Rows, Time
from dataflare.engine.messages import Checkpoint, Share
from dataflare.engine.segments import Outcome
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import END, IDLE, Barrier, Watermark


class Passing(Body):
    """Passes rows on; its share of an epoch is made durable by `store`."""

    def __init__(self, store: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self.times: list[int] = []
        self.cancelled = 0

    async def rows(self, port: int, batch: SharedDataBatch) -> float:
        await self.task.emit(Outcome(frames=[(0, batch.frame)]))
        return 0.5

    async def time(self, event_time_us: int) -> int:
        self.times.append(event_time_us)
        return event_time_us

    async def finish(self) -> None:
        await self.task.cut_if_asked()

    def freeze(self, epoch: int) -> Callable[[], Share]:
        def store() -> Share:
            self._store()
            return Share(self.task.id, epoch)

        return store

    def cancel(self) -> None:
        self.cancelled += 1
        super().cancel()


class Waiting(Body):
    """Reads nothing until it is told that rows have come."""

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.let_out = 0

    async def finish(self) -> None:
        await self.task.cut_if_asked()
        await self.task.waiting(self.came.wait())
        await self.task.emit(Outcome(frames=[(0, ROWS)]))
        self.let_out = 1
        await self.task.cut_if_asked()

    def freeze(self, epoch: int) -> Share:
        return Share(self.task.id, epoch)


class Writes(Body):
    """Prepares an epoch; lives until the final one."""

    cuts_at_once: ClassVar[bool] = False

    async def rows(self, port: int, batch: SharedDataBatch) -> float:
        return 0.0

    async def finish(self) -> None: ...

    async def prepare(self, barrier: Barrier) -> Share:
        return Share(self.task.id, barrier.epoch)


def test_a_read_that_waits_is_cut_where_it_stands() -> None:
    async def main() -> None:
        body = Waiting()
        bench = Bench(body, inputs=0)
        running = bench.start()
        await settle()
        bench.task.checkpoint(Checkpoint(Barrier(1)))
        assert bench.heard.epochs == [1], "at once, without a turn of the loop"
        body.came.set()
        await running
        cut, rows, ended = await bench.came_out(3)
        assert (cut, ended) == (Cut(Barrier(1)), Ended(0))
        assert rows.batch.frame.equals(ROWS)
        assert bench.heard.epochs == [1, None]

    run(main())


def test_nothing_is_taken_after_a_cut_that_stops_the_run() -> None:
    async def main() -> None:
        body = Waiting()
        bench = Bench(body, inputs=0)
        running = bench.start()
        await settle()
        bench.task.checkpoint(Checkpoint(Barrier(1), stops=True))
        body.came.set()
        await settle()
        assert (bench.heard.epochs, body.let_out, running.done()) == ([1], 0, False)
        running.cancel()

    run(main())


def test_a_cut_that_stops_the_run_lets_a_last_read_end_that_cannot_be_made_again() -> None:
    async def main() -> None:
        body = Waiting()
        body.last_read_s = 3_600
        bench = Bench(body, inputs=0)
        running = bench.start()
        await settle()
        bench.task.checkpoint(Checkpoint(Barrier(1), stops=True))
        await settle()
        assert bench.heard.epochs == []
        body.came.set()
        rows, cut = await bench.came_out(2)
        assert (rows.batch.num_rows, cut) == (3, Cut(Barrier(1)))
        await settle()
        assert (bench.heard.epochs, running.done()) == ([1], False)
        running.cancel()

    run(main())


def test_a_last_read_that_takes_too_long_is_cut_with_a_warning() -> None:
    async def main() -> None:
        body = Waiting()
        body.last_read_s = 0.01
        bench = Bench(body, inputs=0)
        running = bench.start()
        await settle()
        bench.task.checkpoint(Checkpoint(Barrier(1), stops=True))
        assert await bench.came_out(1) == [Cut(Barrier(1))]
        (warning,) = bench.task.metrics.step("t").warnings
        assert "gave nothing for 0.01 s when the run stopped" in warning
        running.cancel()

    run(main())


def test_while_channels_live_the_barrier_comes_through_them() -> None:
    async def main() -> None:
        bench = Bench(Passing(), inputs=2)
        running = bench.start()
        left, right = bench.ins
        bench.task.checkpoint(Checkpoint(Barrier(1)))
        left.put(Barrier(1))
        await left.send(SharedDataBatch(ROWS))
        await settle()
        assert bench.heard.epochs == []
        await right.send(SharedDataBatch(ROWS.head(1)))
        right.put(Barrier(1))
        before, cut, behind = await bench.came_out(3)
        assert (before.batch.num_rows, cut, behind.batch.num_rows) == (1, Cut(Barrier(1)), 3)
        for channel in bench.ins:
            channel.put(END)
        await running
        assert bench.heard.epochs == [1, None]

    run(main())


def test_a_barrier_that_was_asked_for_while_the_inputs_ended_is_answered() -> None:
    async def main() -> None:
        bench = Bench(Passing())
        bench.ins[0].put(END)
        bench.task.checkpoint(Checkpoint(Barrier(4)))
        await bench.start()
        assert bench.heard.epochs == [4, None]

    run(main())


def test_an_old_request_is_forgotten_when_its_barrier_came_through_a_channel() -> None:
    async def main() -> None:
        bench = Bench(Passing())
        running = bench.start()
        bench.ins[0].put(Barrier(1))
        await settle()
        bench.task.checkpoint(Checkpoint(Barrier(1)))
        bench.ins[0].put(END)
        await running
        assert sorted(map(str, bench.heard.epochs)) == ["1", "None"]

    run(main())


def test_state_is_stored_while_rows_go_on() -> None:
    async def main() -> None:
        stored = threading.Event()
        bench = Bench(Passing(lambda: (stored.wait(10), None)[1]))
        running = bench.start()
        bench.ins[0].put(Barrier(1))
        await bench.ins[0].send(SharedDataBatch(ROWS))
        cut, rows = await bench.came_out(2)
        assert (cut, type(rows), bench.heard.epochs) == (Cut(Barrier(1)), Rows, [])
        stored.set()
        bench.ins[0].put(END)
        await running
        assert bench.heard.epochs == [1, None], "the end waits for what is being stored"

    run(main())


def test_state_that_cannot_be_stored_is_a_failure() -> None:
    async def main() -> None:
        def full() -> None:
            raise OSError("no space left")

        bench = Bench(Passing(full))
        running = bench.start()
        bench.ins[0].put(Barrier(1))
        bench.ins[0].put(END)
        await running
        (failure,) = bench.heard.failures
        assert (failure.task, str(failure.error), bench.heard.epochs) == (
            "t[0]",
            "no space left",
            [None],
        )

    run(main())


def test_a_writer_lives_until_the_final_epoch_and_answers_after_its_end() -> None:
    async def main() -> None:
        bench = Bench(Writes())
        running = bench.start()
        bench.ins[0].put(END)
        await settle()
        assert bench.heard.epochs == [None]
        bench.task.checkpoint(Checkpoint(Barrier(5)))
        await settle()
        assert (bench.heard.epochs, running.done()) == ([None, 5], False)
        bench.task.checkpoint(Checkpoint(Barrier(6, final=True)))
        await running
        assert bench.heard.epochs == [None, 5, 6]

    run(main())


def test_marks_of_time_go_through_and_seconds_of_work_are_reported() -> None:
    async def main() -> None:
        body = Passing()
        bench = Bench(body, inputs=2)
        reported: list[float] = []
        bench.inbox._controller.report_processing = (  # type: ignore[method-assign]
            lambda task, rows, seconds: reported.append(seconds)
        )
        running = bench.start()
        left, right = bench.ins
        left.put(Watermark(7))
        right.put(Watermark(5))
        await left.send(SharedDataBatch(ROWS))
        left.put(IDLE)
        right.put(IDLE)
        events = await bench.came_out(4)
        assert [type(each).__name__ for each in events] == ["Time", "Rows", "Time", "Idle"]
        assert (events[0], body.times, reported) == (Time(5), [5, 7], [0.5])
        left.put(END)
        right.put(END)
        await running

    run(main())


def test_a_task_whose_rows_nobody_needs_tells_its_own_writers() -> None:
    async def main() -> None:
        body = Passing()
        bench = Bench(body)
        told: list[int] = []
        bench.ins[0].on_cancel = lambda: told.append(1)
        bench.behind.cancel(0)
        assert (body.cancelled, bench.task.unwanted, told) == (1, True, [1])
        assert bench.ins[0].cancelled

    run(main())


def test_a_body_that_rests_is_told_only_the_newest_watermark_afterwards() -> None:
    async def main() -> None:
        body = Passing()
        bench = Bench(body)
        now = asyncio.get_running_loop().time()
        body.rests_until = now + 3_600
        running = bench.start()
        for time in (1, 2, 3):
            bench.ins[0].put(Watermark(time))
            await settle()
        assert body.times == []
        await bench.ins[0].send(SharedDataBatch(ROWS))
        (rows,) = await bench.came_out(1)
        assert isinstance(rows, Rows), "rows go on meanwhile"
        body.rests_until = now
        await bench.ins[0].send(SharedDataBatch(ROWS))
        bench.ins[0].put(END)
        await running
        assert body.times == [3]
        time, rows, ended = await bench.came_out(3)
        assert (time, ended) == (Time(3), Ended(0))

    run(main())


def test_a_rest_ends_by_itself_and_before_an_input_falls_idle_or_ends() -> None:
    async def main() -> None:
        body = Passing()
        bench = Bench(body)
        running = bench.start()
        body.rests_until = asyncio.get_running_loop().time() + 0.01
        bench.ins[0].put(Watermark(1))
        assert await bench.came_out(1) == [Time(1)], "a timer woke the task"
        body.rests_until = asyncio.get_running_loop().time() + 3_600
        bench.ins[0].put(Watermark(2))
        bench.ins[0].put(IDLE)
        assert await bench.came_out(2) == [Time(2), Idle()]
        bench.ins[0].put(Watermark(3))
        bench.ins[0].put(END)
        await running
        assert body.times == [1, 2, 3]

    run(main())
