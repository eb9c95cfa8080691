"""A task that reads: what its share says, in which order chunks leave, and when it stops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import polars as pl
import pytest
from task_bench import SCHEMA, Bench, run, settle

from dataflare.checkpoint.manifest import SplitState
from dataflare.engine.batcher import AdaptiveBatcher
from dataflare.engine.chunk_sizes import ChunkSizes
from dataflare.engine.clocks import Drift
from dataflare.engine.gate import Cut, Ended, Rows
from dataflare.engine.messages import Assign, Checkpoint
from dataflare.engine.pace import Pace, PacesBehind
from dataflare.engine.reading import Reading
from dataflare.engine.row_errors import RowErrors
from dataflare.engine.segments import SegmentRunner
from dataflare.errors import DataError
from dataflare.expr import check
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Barrier, Position, Split
from dataflare.model.types import Schema
from dataflare.operators.stamp import Stamp
from dataflare.planner.physical import Segment
from dataflare.resilience.retry import Retrying
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import (
    BadRow,
    Chunk,
    ChunkReader,
    EndOfSplit,
    InMemory,
    Salvaged,
    SourceBatch,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
)


class Script(SourceConnector):
    """Readers by split id, made by the test."""

    def __init__(self, readers: Mapping[str, Callable[[int], SplitReader]], goes_on: bool = False):
        super().__init__(None, ConnectorContext("t"))
        self._readers, self._goes_on = readers, goes_on
        self.opened: list[tuple[str, int]] = []

    def capabilities(self) -> SourceCapabilities:
        return SourceCapabilities()

    async def schema(self) -> Any:
        return SCHEMA

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return [Split(id_) for id_ in self._readers]

    def carries(self) -> bool:
        return self._goes_on

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        at = position.value["at"] if position else 0
        self.opened.append((split.id, at))
        return self._readers[split.id](at)


class Steps(SplitReader):
    """Batches of one row, up to an end. hold: waits before this row, until it is set."""

    def __init__(self, at: int, end: int, hold: Mapping[int, asyncio.Event] | None = None) -> None:
        self.at, self._end, self._hold = at, end, hold or {}
        self.closed = 0
        self.warnings: dict[str, int] = {}
        self.asked: list[int] = []

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        self.asked.append(rows_max)
        if self.at in self._hold:
            await self._hold[self.at].wait()
        if self.at >= self._end:
            raise EndOfSplit
        self.at += 1
        self.warnings = {"odd": self.at}
        return SharedDataBatch(pl.DataFrame({"n": [self.at - 1]}))

    def position(self) -> Position:
        return Position({"at": self.at})

    async def aclose(self) -> None:
        self.closed += 1


class Chunks(ChunkReader):
    """Chunks of two rows, of which `scan` is what the test says."""

    def __init__(self, scans: Sequence[Callable[[], pl.LazyFrame]], **more: Any) -> None:
        self._scans, self._more, self.given = list(scans), more, 0
        self.asked: list[int | None] = []

    async def read_chunk(self) -> Chunk:
        self.asked.append(self.bytes_max)
        if self.given == len(self._scans):
            raise EndOfSplit
        number, self.given = self.given, self.given + 1
        more = {name: value(number) for name, value in self._more.items()}
        return Chunk(self._scans[number], Position({"at": self.given}), number, 10, rows=2, **more)

    def position(self) -> Position:
        return Position({"at": self.given})


def frame(number: int) -> pl.LazyFrame:
    return pl.LazyFrame({"n": [2 * number, 2 * number + 1]})


def broken() -> pl.LazyFrame:
    return pl.LazyFrame({"n": ["x", "y"]}).select(pl.col("n").cast(pl.Int64))


def bench_of(connector: Script, policy: str = "fail", **options: Any) -> Bench:
    tree = Segment((), SCHEMA, None, ((None, SCHEMA, (), (0,)),))
    runner = SegmentRunner(tree, {}, RowErrors({"t": policy}))
    body = Reading(
        connector,
        {None: runner},
        AdaptiveBatcher(),
        Retrying("t"),
        run_key=1,
        hold_s=0.25,
        **options,
    )
    bench = Bench(body, inputs=0, letters=policy == "dead_letter")
    bench.heard.splits = [Assign(Split(id_)) for id_ in connector._readers]
    return bench


def states(bench: Bench) -> list[list[tuple[str, Any, bool]]]:
    """What each share says of the splits."""

    def told(state: SplitState) -> tuple[str, Any, bool]:
        return state.split.id, state.position and state.position.value["at"], state.done

    return [[told(state) for state in share.splits] for share in bench.heard.shares]


async def rows_of(bench: Bench) -> list[Any]:
    """The rows that leave until the end, with a number in place of each barrier."""
    left: list[Any] = []
    while True:
        event = await bench.behind.next()
        match event:
            case Rows():
                left += event.batch.frame["n"].to_list()
                bench.behind.done(event, 0.0)
            case Cut():
                left.append(f"cut {event.barrier.epoch}")
            case Ended():
                return left


def test_a_share_says_where_each_split_stands_and_an_ended_one_is_told_once() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        source = Script({"a": lambda at: Steps(at, 2), "b": lambda at: Steps(at, 3, {1: gate})})
        bench = bench_of(source)
        running = bench.start()
        while source.opened[-1:] != [("b", 0)]:
            await asyncio.sleep(0)
        await settle()
        bench.task.checkpoint(Checkpoint(Barrier(1)))
        bench.task.checkpoint(Checkpoint(Barrier(2)))
        gate.set()
        await running
        assert await rows_of(bench) == [0, 1, 0, "cut 1", "cut 2", 1, 2]
        assert states(bench) == [
            [("a", 2, True), ("b", 1, False)],
            [("b", 1, False)],
            [("b", 3, True)],
        ]

    run(main())


def test_it_begins_where_the_split_was_left() -> None:
    async def main() -> None:
        source = Script({"a": lambda at: Steps(at, 4)})
        bench = bench_of(source)
        bench.heard.splits = [Assign(Split("a"), Position({"at": 2}))]
        await bench.start()
        assert (source.opened, await rows_of(bench)) == ([("a", 2)], [2, 3])
        assert (bench.counts.rows_out, bench.counts.warnings) == (2, {"odd": 4})

    run(main())


def test_a_reader_is_told_how_long_it_may_hold_rows_and_is_closed() -> None:
    async def main() -> None:
        reader = Steps(0, 2)
        bench = bench_of(Script({"a": lambda at: reader}))
        await bench.start()
        assert (reader.hold_s, reader.closed) == (0.25, 1)

    run(main())


@pytest.mark.parametrize("goes_on", [False, True])
def test_rows_that_no_step_needs_are_not_waited_for(goes_on: bool) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        reader = Steps(0, 3, {1: gate})
        bench = bench_of(
            Script({"a": lambda at: reader, "b": lambda at: Steps(at, 1)}, goes_on=goes_on)
        )
        running = bench.start()
        await settle()
        bench.behind.cancel(0)
        if goes_on:
            await settle()
            assert not running.done(), "the next run starts from where this one ends"
            gate.set()
        await running
        assert reader.closed == 1
        expected = [("a", 3, True), ("b", 1, True)] if goes_on else [("a", 1, False)]
        assert states(bench) == [expected]

    run(main())


def test_chunks_leave_in_their_order_and_what_was_read_ahead_is_not_in_the_position() -> None:
    async def main() -> None:
        first, others = threading.Event(), threading.Event()

        def slow() -> pl.LazyFrame:
            first.wait(10)
            return frame(0)

        def quick(number: int) -> Callable[[], pl.LazyFrame]:
            def scan() -> pl.LazyFrame:
                others.set()
                return frame(number)

            return scan

        reader = Chunks([slow, *(quick(number) for number in range(1, 7))])
        bench = bench_of(Script({"a": lambda at: reader}))
        running = bench.start()
        await asyncio.get_running_loop().run_in_executor(None, others.wait, 10)
        await settle()
        assert reader.given == bench.pool.threads + 1, "so many at once, and no more"
        bench.task.checkpoint(Checkpoint(Barrier(1)))
        assert states(bench) == [[("a", None, False)]]
        first.set()
        await running
        assert await rows_of(bench) == ["cut 1", *range(14)]
        assert states(bench)[1:] == [[("a", 7, True)]]
        assert (bench.counts.rows_out, bench.counts.bytes_out) == (14, 70)

    run(main())


def test_the_position_is_behind_the_last_chunk_that_left() -> None:
    async def main() -> None:
        held = threading.Event()

        def slow() -> pl.LazyFrame:
            held.wait(10)
            return frame(1)

        reader = Chunks([lambda: frame(0), slow, lambda: frame(2), lambda: frame(3)])
        bench = bench_of(Script({"a": lambda at: reader}))
        running = bench.start()
        rows = await bench.behind.next()
        assert rows.batch.frame["n"].to_list() == [0, 1]
        while reader.given < 3:
            await asyncio.sleep(0)
        await settle()
        bench.task.checkpoint(Checkpoint(Barrier(1)))
        assert states(bench) == [[("a", 1, False)]]
        held.set()
        await running

    run(main())


class Ending(Steps):
    """Its end is a place of its own, as the size of a file."""

    def position(self) -> Position:
        return Position({"at": 100 if self.at >= self._end else self.at})


def test_the_position_of_a_split_that_ended_is_that_of_its_end() -> None:
    async def main() -> None:
        bench = bench_of(Script({"a": lambda at: Ending(0, 0)}))
        await bench.start()
        assert states(bench) == [[("a", 100, True)]]

    run(main())


def test_only_chunks_that_fail_in_a_row_change_the_way() -> None:
    async def main() -> None:
        scans: list[int] = []

        def noted(number: int) -> Callable[[], pl.LazyFrame]:
            def scan() -> pl.LazyFrame:
                scans.append(number)
                return frame(number) if number == 3 else broken()

            return scan

        def saved(number: int) -> Callable[[], Salvaged]:
            bad = [BadRow(1, "E0501", "not a number", "y", "")]
            return lambda: Salvaged(pl.DataFrame({"n": [number]}), pl.Series([0]), bad)

        reader = Chunks([noted(number) for number in range(7)], salvage=saved)
        await bench_of(Script({"a": lambda at: reader}), "skip", flying_bytes_max=10).start()
        assert scans == list(range(7))

    run(main())


def test_no_more_chunks_are_read_than_the_budget_has_room_for() -> None:
    async def main() -> None:
        held = threading.Event()
        reader = Chunks([lambda: (held.wait(10), frame(0))[1]] * 4, work_bytes=lambda number: 60)
        bench = bench_of(Script({"a": lambda at: reader}), flying_bytes_max=100)
        running = bench.start()
        for _ in range(50):
            await asyncio.sleep(0)
        assert reader.given == 2
        held.set()
        await running
        assert reader.given == 4

    run(main())


def test_a_chunk_that_does_not_parse_is_an_error_or_is_read_row_by_row() -> None:
    async def main() -> None:
        bench = bench_of(Script({"a": lambda at: Chunks([lambda: frame(0), broken])}))
        with pytest.raises(DataError):
            await bench.start()

        def saved(number: int) -> Callable[[], Salvaged]:
            bad = [BadRow(1, "E0501", "not a number", "y", "line 2")]
            return lambda: Salvaged(pl.DataFrame({"n": [7]}), pl.Series([0]), bad)

        source = Script({"a": lambda at: Chunks([broken, lambda: frame(1)], salvage=saved)})
        bench = bench_of(source, "dead_letter")
        await bench.start()
        assert await rows_of(bench) == [7, 2, 3]
        letter = await bench.letters.next()
        assert letter.batch.frame.select("step", "code", "position").rows() == [
            ("t", "E0501", "line 2")
        ]
        assert (bench.counts.errors, bench.counts.dead_letters) == (1, 1)

    run(main())


def test_after_some_chunks_that_fail_the_careful_way_is_tried_first() -> None:
    async def main() -> None:
        scans: list[int] = []

        def noted(number: int) -> Callable[[], pl.LazyFrame]:
            def scan() -> pl.LazyFrame:
                scans.append(number)
                return broken()

            return scan

        def saved(number: int) -> Callable[[], Salvaged]:
            bad = [BadRow(1, "E0501", "not a number", "y", "")] if number < 8 else []
            return lambda: Salvaged(pl.DataFrame({"n": [number]}), pl.Series([0]), bad)

        reader = Chunks([noted(number) for number in range(12)], salvage=saved)
        bench = bench_of(Script({"a": lambda at: reader}), "skip", flying_bytes_max=10)
        await bench.start()
        assert await rows_of(bench) == list(range(12))
        assert scans == [0, 1, 2, 3, 9, 10, 11], (
            "not after four that failed; again after a good one"
        )

    run(main())


def test_a_read_that_fails_ends_the_task_and_what_is_under_way() -> None:
    class Failing(Steps):
        async def read_batch(self, rows_max: int) -> SharedDataBatch:
            raise DataError("damaged", code="E0503", help="replace the file")

    async def main() -> None:
        reader = Failing(0, 1)
        bench = bench_of(Script({"a": lambda at: reader}))
        with pytest.raises(DataError, match="damaged"):
            await bench.start()
        assert reader.closed == 1
        assert bench.heard.shares == []

    run(main())


class Transaction(Steps):
    """All rows are one transaction, so that a checkpoint may be cut behind the last one only."""

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        batch = await super().read_batch(rows_max)
        times = pl.Series("at", [1_000 * self.at], dtype=pl.Datetime("us", "UTC"))
        frame = batch.frame.with_columns(times)
        return SourceBatch(frame, may_cut=self.at == self._end)


def test_a_reader_that_is_ahead_of_others_waits_behind_its_transaction_and_not_inside() -> None:
    async def main() -> None:
        schema = Schema.of({"n": "int64", "at": "timestamp[us, UTC]"})
        stamp = Stamp(
            "t", "at", check("at", schema), 0, None, None, max_drift_us=10, streaming=True
        )
        tree = Segment((stamp,), schema, None, ((None, schema, (), (0,)),))
        drift, connector = Drift(), Script({"a": lambda at: Transaction(at, 3)})
        drift.report("slow", 0)
        runner = SegmentRunner(tree, {}, RowErrors({"t": "fail"}))
        body = Reading(
            connector,
            {None: runner},
            AdaptiveBatcher(),
            Retrying("t"),
            run_key=1,
            hold_s=0.25,
            drift=drift,
        )
        bench = Bench(body, inputs=0)
        bench.heard.splits = [Assign(Split("a"))]
        running = bench.start()
        came: list[int] = []
        while len(came) < 3:
            event = await bench.behind.next()
            if isinstance(event, Rows):
                came += event.batch.frame["n"].to_list()
                bench.behind.done(event, 0.0)
        assert came == [0, 1, 2]
        await settle()
        assert not running.done(), "it is ahead, so it reads no more"
        drift.report("slow", 10_000)
        await running

    run(main())


def test_batches_are_as_large_as_the_steps_behind_do_soon() -> None:
    async def main() -> None:
        reader = Steps(0, 3)
        bench = bench_of(Script({"a": lambda at: reader}))
        # 1,000 rows a second, so 250 in the time that a barrier may wait.
        bench.behind._controller.report_processing("behind", 1_000, 1.0)
        running = bench.start()
        assert (await rows_of(bench))[:1] == [0]
        await running
        # Before anything was sent it is not known how many rows leave for one that is read.
        assert reader.asked[0] == 1_000
        assert bench.task._timely_now() == 250
        bench.task.rows_taken = 1_000 * sum(bench.task.rows_sent.values())
        assert bench.task._timely_now() == 250_000, "one row in a thousand passes the filter"

    run(main())


def test_chunks_begin_small_and_stay_so_where_the_steps_behind_are_slow() -> None:
    async def main(slow: bool) -> list[int | None]:
        reader = Chunks([partial(frame, n) for n in range(12)])
        bench = bench_of(Script({"a": lambda at: reader}))
        if slow:
            bench.behind._controller.report_processing("behind", 1_000, 1.0)
        running = bench.start()
        while True:
            event = await bench.behind.next()
            if isinstance(event, Ended):
                break
            if isinstance(event, Rows):
                bench.behind.done(event, 0.0)
        await running
        return reader.asked

    assert asyncio.run(main(slow=False))[0] == 256 << 10
    # A chunk of the test has 5 bytes a row.
    last = asyncio.run(main(slow=True))[-1]
    assert last is not None
    assert last <= 250 * 5


def test_chunks_that_take_long_become_smaller_and_calls_with_an_overhead_do_not() -> None:
    def learned(seconds: Callable[[int], float]) -> list[int]:
        chunk_sizes = ChunkSizes(calls_out=False, pace=Pace())
        sizes = []
        for _ in range(30):
            rows = max(1, chunk_sizes.largest // 10)
            chunk_sizes.learn(10 * rows, rows, seconds(rows))
            sizes.append(rows)
        return sizes

    assert learned(lambda rows: 1e-3 + 1e-9 * rows)[-1] == (64 << 20) // 10
    slow = learned(lambda rows: 0.04 * rows)
    assert 0.1 < 0.04 * slow[-1] < 0.5, "a quarter of a second"
    assert learned(lambda rows: 1.0 + 1e-6 * rows)[-1] > 100_000, "a second for each call"


def test_few_rows_in_memory_are_computed_where_the_task_runs_in_their_order() -> None:
    threads: list[tuple[int, bool]] = []
    main_thread = threading.current_thread()

    def noted(number: int) -> pl.LazyFrame:
        threads.append((number, threading.current_thread() is main_thread))
        return frame(number)

    def memory(number: int) -> InMemory | None:
        """The third has no promise, and the fourth is large."""
        most = {2: None, 3: 500}.get(number, 2)
        return None if most is None else InMemory(most, lambda: noted(number).collect())

    async def main() -> None:
        scans = [partial(noted, number) for number in range(6)]
        bench = bench_of(Script({"a": lambda at: Chunks(scans, in_memory=memory)}))
        await bench.start()
        assert await rows_of(bench) == list(range(12))
        assert states(bench) == [[("a", 6, True)]]

    run(main())
    at_once = {number for number, is_main in threads if is_main}
    assert {0, 1} <= at_once
    assert not at_once & {2, 3}
    assert {number for number, _ in threads} == set(range(6))


@pytest.mark.parametrize("policy", ["skip", "fail"])
def test_few_rows_in_memory_that_do_not_parse_are_read_one_by_one(policy: str) -> None:
    def memory(number: int) -> InMemory:
        return InMemory(2, lambda: (broken() if number == 1 else frame(number)).collect())

    def salvage(number: int) -> Callable[[], Salvaged]:
        good = pl.DataFrame({"n": [3]})
        bad = [BadRow(0, "E0501", "no number", "x", None)]
        return lambda: Salvaged(good, pl.Series([1], dtype=pl.Int64), bad)

    async def main() -> None:
        scans = [partial(frame, number) for number in range(3)]
        reader = Chunks(scans, in_memory=memory, salvage=salvage)
        bench = bench_of(Script({"a": lambda at: reader}), policy)
        running = bench.start()
        if policy == "fail":
            with pytest.raises(DataError, match="no number"):
                await running
            assert states(bench) == []
            return
        await running
        assert await rows_of(bench) == [0, 1, 3, 4, 5]
        assert bench.counts.errors == 1

    run(main())


def test_few_rows_in_memory_wait_behind_chunks_that_are_under_way() -> None:
    """What decodes them may serve one thread at a time, and the task must not wait for it."""
    busy, released = threading.Event(), threading.Event()

    def slow(number: int) -> pl.LazyFrame:
        busy.set()
        assert released.wait(10)
        return frame(number)

    async def main() -> None:
        main_thread, threads = threading.current_thread(), set()

        def rows() -> pl.DataFrame:
            threads.add(threading.current_thread() is main_thread)
            return frame(1).collect()

        def memory(number: int) -> InMemory | None:
            return InMemory(2, rows) if number else None

        reader = Chunks([partial(slow, 0), partial(frame, 1)], in_memory=memory)
        bench = bench_of(Script({"a": lambda at: reader}))
        running = bench.start()
        while not (busy.is_set() and reader.given == 2 and threads):
            await asyncio.sleep(0)
        released.set()
        await running
        assert await rows_of(bench) == [0, 1, 2, 3]
        assert threads == {False}

    run(main())


class Large(ChunkReader):
    """One chunk of forty rows."""

    def __init__(self) -> None:
        self.asked: list[int | None] = []

    async def read_chunk(self) -> Chunk:
        self.asked.append(self.rows_max)
        if len(self.asked) > 1:
            raise EndOfSplit
        rows = pl.LazyFrame({"n": range(40)})
        return Chunk(lambda: rows, Position({"at": 40}), 0, 400, rows=40)

    def position(self) -> Position:
        return Position({"at": 40})


def test_rows_that_were_read_at_once_go_at_the_rate_and_a_checkpoint_does_not_wait() -> None:
    """Of forty rows ten go at once; the others would take a day, and go when a checkpoint begins, which is behind them."""
    reader = Large()

    async def main() -> None:
        bench = bench_of(Script({"a": lambda at: reader}), pace=Pace(100.0, None))
        slow = bench.task.body._pace
        ended = bench.start()
        (first,) = await bench.came_out(1)
        slow.rows_per_s = 1e-4
        (second,) = await bench.came_out(1)
        assert first.batch.frame["n"].to_list() == list(range(10))
        assert second.batch.frame["n"].to_list() == list(range(10, 20))
        await settle()
        bench.task.checkpoint(Checkpoint(Barrier(1)))
        rest: list[int] = []
        while not isinstance(event := (await bench.came_out(1))[0], Cut):
            assert isinstance(event, Rows)
            rest += event.batch.frame["n"].to_list()
        assert rest == list(range(20, 40))
        await ended
        assert states(bench)[0] == [("a", 40, False)]

    run(main())
    assert reader.asked == [10, 10]


def test_rates_bound_the_rows_of_a_chunk() -> None:
    class Behind:
        paces = PacesBehind((Pace(20.0, None),))

        def timely_rows(self) -> None:
            return None

    free, held = Behind(), Behind()
    free.paces = PacesBehind()
    sizes = partial(ChunkSizes, calls_out=False)
    assert sizes(pace=Pace()).rows_max(free) is None
    assert sizes(pace=Pace(100.0, None)).rows_max(free) == 10
    assert sizes(pace=Pace(100.0, None)).rows_max(held) == 2
