"""The rate of a step: turns, what is owed after a barrier, and parts of batches."""

from __future__ import annotations

import asyncio

import polars as pl
import pytest

from dataflare.engine.pace import Pace, PacesBehind, RowTurns
from dataflare.engine.segments import Outcome
from dataflare.model.batch import KIND_COLUMN, RowKind, SharedDataBatch


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def rows(number: int) -> SharedDataBatch:
    return SharedDataBatch(pl.DataFrame({"n": range(number)}))


def test_turns_are_as_far_apart_as_the_rows_before_cost():
    pace = Pace(100.0, None, Clock())
    assert [pace.take(10), pace.take(10), pace.take(50), pace.take(1)] == pytest.approx(
        [0.0, 0.1, 0.2, 0.7]
    )


def test_over_a_long_time_the_rate_holds_whatever_comes_when():
    clock = Clock()
    pace, taken = Pace(100.0, None, clock), 0
    for pause_s in [0.0, 0.3, 0.01, 7.0, 0.0, 0.05, 0.0] * 20:
        clock.now += pause_s
        clock.now += pace.take(pace.rows_at_once)
        taken += pace.rows_at_once
        assert taken <= 100.0 * (clock.now - 1_000.0) + 2 * pace.rows_at_once


def test_of_rows_and_bytes_the_dearer_one_counts():
    pace = Pace(100.0, 1_000.0, Clock())
    pace.take(10, 1)
    assert pace.owed_s() == pytest.approx(0.1)
    pace.take(1, 5_000)
    assert pace.owed_s() == pytest.approx(5.1)


def test_rows_that_did_not_come_are_not_paid_for():
    pace = Pace(10.0, None, Clock())
    pace.take(100)
    pace.gave(100, 30, 0)
    assert pace.owed_s() == pytest.approx(3.0)


def test_what_goes_at_once_is_never_nothing():
    pace = Pace(0.1, None, Clock())
    assert (pace.rows_at_once, pace.bytes_at_once) == (1, 1)
    pace = Pace(None, 1_000.0, Clock())
    assert pace.rows_at_once == 1  # of the hundred bytes that a row is thought to have
    pace.take(100, 200)
    assert pace.rows_at_once == 50


def test_without_a_rate_nothing_waits():
    pace = Pace()
    assert pace.take(10**9, 10**12) == 0.0
    assert pace.rows_at_once > 10**12


def test_a_task_is_held_back_by_the_slowest_destination_that_owes():
    fast, slow = Pace(1_000.0, None, Clock()), Pace(10.0, None, Clock())
    behind = PacesBehind((fast, slow))
    assert behind.rows_at_once(500) == 1
    assert behind.held_s() <= 0
    fast.take(2_000), slow.take(100)
    assert behind.held_s() == pytest.approx(slow.owed_s() - 0.5)


def test_a_batch_goes_in_parts_and_the_rest_at_once_when_a_barrier_comes():
    async def main() -> list[int]:
        gate = RowTurns(Pace(100.0, None, Clock()))
        sizes = []
        for part in gate.parts(rows(95)):
            sizes.append(part.num_rows)
            if len(sizes) == 3:
                gate.barrier_asked()
        return sizes

    assert asyncio.run(main()) == [10, 10, 10, 65]


def test_a_barrier_ends_a_wait_and_what_went_is_owed():
    async def main() -> None:
        pace = Pace(0.001, None)
        gate = RowTurns(pace)
        await gate.turn(1, 0)
        waiting = asyncio.ensure_future(gate.turn(1, 0))
        await asyncio.sleep(0)
        assert not waiting.done()
        gate.barrier_asked()
        await waiting
        assert pace.owed_s() > 1_000
        gate.barrier_passed()
        again = asyncio.ensure_future(gate.turn(1, 0))
        await asyncio.sleep(0)
        assert not again.done()
        again.cancel()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_the_halves_of_an_update_stay_in_one_part():
    before, after = int(RowKind.UPDATE_BEFORE), int(RowKind.UPDATE_AFTER)
    kinds = pl.Series(KIND_COLUMN, [0, before, after, before, after, 0], dtype=pl.UInt8)
    batch = SharedDataBatch(pl.DataFrame({"n": range(6)}).with_columns(kinds))

    async def main() -> list[list[int]]:
        gate = RowTurns(Pace(20.0, None, Clock()))
        return [part.frame["n"].to_list() for part in gate.parts(batch)]

    assert asyncio.run(main()) == [[0, 1, 2], [3, 4], [5]]


def outcome(*frames: tuple[int, list[int]], entered: int | None = None) -> Outcome:
    made = [(edge, pl.DataFrame({"n": numbers})) for edge, numbers in frames]
    return Outcome(made, entered, counts=[("s", entered, None)], event_time_us=7)


def flat(parts: list[tuple[Outcome, int]]) -> list[tuple[int, int]]:
    frames = [each for part, _ in parts for each in part.frames]
    return [(edge, number) for edge, frame in frames for number in frame["n"]]


@pytest.mark.parametrize(
    ("whole", "sizes"),
    [
        (outcome((0, list(range(35))), entered=35), [10, 10, 10, 5]),
        (outcome((0, list(range(18))), (1, [1, 2]), (0, [99]), entered=42), [10] * 4 + [2]),
        (outcome((0, [1]), entered=21), [10, 10, 1]),
        (outcome(entered=25), [10, 10, 5]),
        (outcome((0, list(range(12)))), [10, 2]),
        (outcome(entered=0), [0]),
        (outcome(), [0]),
    ],
)
def test_what_was_read_at_once_goes_in_parts_with_all_rows_in_order(
    whole: Outcome, sizes: list[int]
) -> None:
    parts = [*RowTurns(Pace(100.0, None, Clock())).parts_of(whole, 1_003)]
    assert [part.rows_at_least for part, _ in parts if whole.head_rows] == sizes * bool(
        whole.head_rows
    )
    assert len(parts) == len(sizes)
    assert flat(parts) == flat([(whole, 0)])
    assert sum(size for _, size in parts) == 1_003
    assert [part.counts for part, _ in parts] == [whole.counts] + [[]] * (len(sizes) - 1)
    assert {part.event_time_us for part, _ in parts} == {7}
    counted = [part.head_rows for part, _ in parts]
    assert (None in counted) == (whole.head_rows is None)
    assert whole.head_rows is None or sum(filter(None, counted)) == whole.head_rows


def test_parts_of_what_was_read_are_as_large_as_its_bytes_allow() -> None:
    whole = outcome((0, list(range(40))), entered=40)
    parts = RowTurns(Pace(None, 1_000.0, Clock())).parts_of(whole, 400)
    assert [part.head_rows for part, _ in parts] == [10] * 4


def test_a_barrier_lets_the_rest_of_what_was_read_go_at_once() -> None:
    async def main() -> list[int | None]:
        gate, sizes = RowTurns(Pace(100.0, None, Clock())), []
        for part, _ in gate.parts_of(outcome((0, list(range(95))), entered=95), 0):
            sizes.append(part.head_rows)
            if len(sizes) == 3:
                gate.barrier_asked()
        return sizes

    assert asyncio.run(main()) == [10, 10, 10, 65]
