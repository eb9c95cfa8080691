"""A task that remembers: what a cut holds, what leaves when, and what is counted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from task_bench import SCHEMA, Bench, run, settle

from dataflare.checkpoint.store import LocalStore
from dataflare.engine.backpressure import BackpressureController
from dataflare.engine.channel import MemoryBudget
from dataflare.engine.gate import Cut, Ended, Idle, Rows, Time
from dataflare.engine.messages import Checkpoint
from dataflare.engine.operating import ChunkFolder, Operating, share_of
from dataflare.engine.row_errors import RowErrors
from dataflare.engine.segments import SegmentRunner
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import END, Barrier, Watermark
from dataflare.operators.base import ERROR_COLUMN, LATE, LiveOperator, Lowering, Result, Side
from dataflare.operators.validate import RULE_BROKEN
from dataflare.planner.physical import Segment
from dataflare.sdk.processor import Refused
from dataflare.state.tables import Tables

LINEAGE = "0f0e0d0c-0000-4000-8000-000000000000"


class Keeping(LiveOperator):
    """Keeps rows until the end of the input, and says at once how many it has."""

    def __init__(self, tables: Tables, wants: int = 1 << 30) -> None:
        self.rows = tables.rows("rows")
        self.given = tables.value("given", 0, sum)
        self._wants, self.closed = wants, 0
        self.threads: list[int] = []
        self.times: list[int] = []
        self._refused: list[Refused] = []
        self.refuses_at_end = False

    @property
    def needs_rows(self) -> bool:
        return bool(self.given.value < self._wants)

    def process(self, port: int, frame: pl.DataFrame) -> Iterable[Result]:
        self.given.value += frame.height
        self.threads.append(threading.get_ident())
        bad = frame.filter(pl.col("n") < 0)
        if bad.height:
            self._refused.append(Refused(bad, "negative"))
        late = frame.filter(pl.col("n") == 99)
        if late.height:
            yield Side(LATE, late)
        self.rows.append(frame.filter(pl.col("n").is_between(0, 98)))
        yield pl.DataFrame({"n": [-self.given.value]})

    def refused(self) -> Sequence[Refused]:
        refused, self._refused = self._refused, []
        return refused

    def watermark(self, event_time_us: int) -> Iterable[Result]:
        self.times.append(event_time_us)
        yield pl.DataFrame({"n": [event_time_us]})

    def passed_on(self, event_time_us: int) -> int:
        return event_time_us - 10

    def end(self, port: int) -> Iterable[Result]:
        yield from self.rows.drain(2)
        if self.refuses_at_end:
            self._refused.append(Refused(pl.DataFrame({"n": [7]}), "too few"))

    def close(self) -> None:
        self.closed += 1


class Room:
    """An operator's task, with its tables in a store on the disk."""

    def __init__(
        self,
        folder: Path,
        *,
        wants: int = 1 << 30,
        policy: str = "fail",
        state_max: int = 1 << 30,
        timed: bool = False,
        reads_late: bool = False,
    ) -> None:
        chunks = ChunkFolder(LocalStore(folder, LINEAGE), "t", 0, 1)
        self.tables = Tables(storage=chunks)
        self.live = Keeping(self.tables, wants)
        tree = Segment((), SCHEMA, None, ((None, SCHEMA, (), (0,)),))
        errors = RowErrors({"t": policy})
        controller = BackpressureController()
        self.budget = MemoryBudget(1 << 30, controller)
        sides = {LATE: SegmentRunner(tree, {}, errors)} if reads_late else {}
        runner = SegmentRunner(tree, {}, errors)
        self.body = Operating(
            self.live, self.tables, chunks, runner, self.budget, state_max, sides=sides, timed=timed
        )
        self.bench = Bench(self.body, letters=policy == "dead_letter")

    async def send(self, *values: int) -> None:
        await self.bench.ins[0].send(SharedDataBatch(pl.DataFrame({"n": list(values)})))

    async def left(self) -> list[Any]:
        """What left until the end, in order."""
        left: list[Any] = []
        while True:
            event = await self.bench.behind.next()
            match event:
                case Rows():
                    left.append(event.batch.frame["n"].to_list())
                case Cut():
                    left.append(f"cut {event.barrier.epoch}")
                case Time():
                    left.append(f"time {event.event_time_us}")
                case Ended():
                    return left
                case Idle():
                    left.append("idle")

    def held(self, share: int) -> tuple[Any, list[int]]:
        """What a share says: the value and the rows."""
        state = self.bench.heard.shares[share].state
        assert state is not None
        told = share_of(state)
        store = self.body._chunks
        rows = [n for chunk in told.chunks.get("rows", ()) for n in store.read(chunk)["n"]]
        return told.values["given"], rows


def test_a_cut_holds_the_rows_in_front_of_it_and_the_end_none(tmp_path: Path) -> None:
    async def main() -> None:
        room = Room(tmp_path)
        running = room.bench.start()
        await room.send(1, 2)
        room.bench.ins[0].put(Barrier(1))
        await room.send(3)
        room.bench.ins[0].put(END)
        await running
        assert await room.left() == [[-2], "cut 1", [-3], [1, 2], [3]]
        assert [room.held(n) for n in range(2)] == [(2, [1, 2]), (3, [])]
        assert room.bench.heard.epochs == [1, None]
        state = room.bench.heard.shares[0].state
        assert state is not None
        assert all("-0000000001-" in chunk.name for chunk in state.chunks), "named for the epoch"
        counts = room.bench.counts
        assert (counts.rows_in, counts.rows_out) == (3, 5)
        assert counts.seconds > 0

    run(main())


def test_between_two_results_it_may_be_cut_and_what_was_given_is_not_held(tmp_path: Path) -> None:
    async def main() -> None:
        room = Room(tmp_path)
        await room.send(1, 2, 3, 4, 5)
        room.bench.ins[0].put(END)
        running = room.bench.start()
        while not room.bench.inbox.gate.ended:
            await asyncio.sleep(0)
        room.bench.task.checkpoint(Checkpoint(Barrier(7)))
        left = await room.left()
        await running
        cut = left.index("cut 7")
        given = [n for part in left[:cut] if isinstance(part, list) for n in part if n > 0]
        assert room.held(0)[1] == [n for n in range(1, 6) if n not in given]
        assert [n for part in left if isinstance(part, list) for n in part] == [-5, 1, 2, 3, 4, 5]

    run(main())


def test_one_that_has_its_rows_wants_no_more(tmp_path: Path) -> None:
    async def main() -> None:
        room = Room(tmp_path, wants=3)
        running = room.bench.start()
        await room.send(1)
        await settle()
        assert not room.bench.ins[0].cancelled
        await room.send(2, 3)
        while not room.bench.ins[0].cancelled:
            await asyncio.sleep(0)
        await room.send(4)
        room.bench.ins[0].put(END)
        await running
        assert await room.left() == [[-1], [-3], [1, 2], [3]]
        restored = Room(tmp_path / "b", wants=0)
        running = restored.bench.start()
        await settle()
        assert restored.bench.ins[0].cancelled, "before any row, where a checkpoint has them all"
        running.cancel()

    run(main())


def test_nothing_is_handed_out_where_nothing_is_wanted(tmp_path: Path) -> None:
    async def main() -> None:
        room = Room(tmp_path)
        running = room.bench.start()
        await room.send(1, 2)
        await settle()
        room.bench.behind.cancel(0)
        room.bench.ins[0].put(END)
        await running
        assert room.tables.num_bytes() > 0, "what it holds was not drained"
        (share,) = room.bench.heard.shares
        assert share.state is None

    run(main())


@pytest.mark.parametrize(("timed", "expected"), [(True, ["time 90"]), (False, ["time 100"])])
def test_an_operator_that_works_by_time_is_told_it(
    tmp_path: Path, timed: bool, expected: list[str]
) -> None:
    async def main() -> None:
        room = Room(tmp_path, timed=timed)
        running = room.bench.start()
        room.bench.ins[0].put(Watermark(100))
        room.bench.ins[0].put(END)
        await running
        assert await room.left() == ([[100]] if timed else []) + expected
        assert room.live.times == ([100] if timed else [])

    run(main())


@pytest.mark.parametrize(("policy", "letters"), [("skip", 0), ("dead_letter", 1)])
def test_rows_that_it_cannot_take_follow_the_policy(
    tmp_path: Path, policy: str, letters: int
) -> None:
    async def main() -> None:
        room = Room(tmp_path, policy=policy)
        running = room.bench.start()
        await room.send(1, -5)
        room.bench.ins[0].put(END)
        await running
        assert await room.left() == [[-2], [1]]
        counts = room.bench.counts
        assert (counts.errors, counts.dead_letters) == (1, letters)
        if letters:
            letter = await room.bench.letters.next()
            assert letter.batch.frame.select("step", "row").rows() == [("t", '{"n":-5}')]

    run(main())


def test_rows_that_are_refused_at_the_very_end_are_counted(tmp_path: Path) -> None:
    async def main() -> None:
        room = Room(tmp_path, policy="dead_letter")
        room.live.refuses_at_end = True
        running = room.bench.start()
        await room.send(1)
        room.bench.ins[0].put(END)
        await running
        assert await room.left() == [[-1], [1]]
        assert (room.bench.counts.errors, room.bench.counts.dead_letters) == (1, 1)

    run(main())


class Failing(Keeping):
    """Gives results of which some fail."""

    def process(self, port: int, frame: pl.DataFrame) -> Iterable[Result]:
        self.lowering = Lowering()
        self.lowering.sites.append(("t", "10 / n"))
        fails = pl.when(pl.col("n") == 0).then(pl.lit(RULE_BROKEN, pl.UInt32))
        yield frame.with_columns(fails.alias(ERROR_COLUMN))


def test_results_that_fail_leave_the_others(tmp_path: Path) -> None:
    async def main() -> None:
        room = Room(tmp_path, policy="dead_letter")
        room.body.live = Failing(Tables())
        running = room.bench.start()
        await room.send(1, 0, 2)
        room.bench.ins[0].put(END)
        await running
        assert await room.left() == [[1, 2]]
        letter = await room.bench.letters.next()
        assert letter.batch.frame.select("step", "code", "row").rows() == [
            ("t", "E0540", '{"n":0}')
        ]
        assert (room.bench.counts.errors, room.bench.counts.rows_out) == (1, 2)

    run(main())


@pytest.mark.parametrize("reads_late", [True, False])
def test_late_rows_are_counted_also_where_no_step_reads_them(
    tmp_path: Path, reads_late: bool
) -> None:
    async def main() -> None:
        room = Room(tmp_path, reads_late=reads_late)
        running = room.bench.start()
        await room.send(1, 99, 99)
        room.bench.ins[0].put(END)
        await running
        assert await room.left() == ([[99, 99]] if reads_late else []) + [[-3], [1]]
        counts = room.bench.counts
        assert (counts.late, counts.late_unread) == (2, {} if reads_late else {LATE: 2})

    run(main())


def test_tables_beyond_their_share_of_memory_go_to_the_disk(tmp_path: Path) -> None:
    async def main() -> None:
        room = Room(tmp_path, state_max=10_000)
        running = room.bench.start()
        await room.send(*range(50))
        await settle()
        for _ in range(20):
            await room.send(*(n % 90 for n in range(1_000)))
        room.bench.ins[0].put(Barrier(1))
        while not room.bench.heard.epochs:
            await asyncio.sleep(0.001)
        assert room.tables.num_bytes() <= 10_000
        assert room.budget.state_bytes["t[0]"] == room.tables.num_bytes()
        room.bench.ins[0].put(END)
        room.bench.behind.cancel(0)
        await running
        value, rows = room.held(0)
        assert (value, len(rows)) == (20_050, 20_050)

    run(main())


def test_it_is_closed_once(tmp_path: Path) -> None:
    async def main() -> None:
        room = Room(tmp_path)
        room.bench.ins[0].put(END)
        await room.bench.start()
        await room.bench.task.aclose()
        assert room.live.closed == 1

    run(main())


def test_few_rows_are_taken_in_place_only_while_no_state_is_on_disk(tmp_path: Path) -> None:
    async def main() -> None:
        room = Room(tmp_path, state_max=100)
        writing: list[int] = []
        store, write = room.body._chunks, room.body._chunks.write

        def noted(frame: pl.DataFrame, key_groups: tuple[int, int] | None) -> Any:
            writing.append(threading.get_ident())
            return write(frame, key_groups)

        store.write = noted  # type: ignore[method-assign]
        running = room.bench.start()
        few, many = SharedDataBatch(pl.DataFrame({"n": [1]})), range(20)
        assert room.body.takes_at_once(few)
        await room.send(*many)
        await room.bench.came_out(1)
        assert not room.body.takes_at_once(few), "20 rows of 8 bytes are beyond the bound"
        await room.send(1)
        room.bench.ins[0].put(END)
        await room.left()
        await running
        here = threading.get_ident()
        assert room.live.threads[0] == here
        assert room.live.threads[1] != here
        assert writing
        assert here not in writing

    run(main())
