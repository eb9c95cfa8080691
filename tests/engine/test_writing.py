"""A task that writes: what it counts, which calls are made again, and what becomes of refused rows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import polars as pl
import pytest
from task_bench import ROWS, Bench, run, settle

from dataflare.engine.messages import Checkpoint
from dataflare.engine.writing import Writing
from dataflare.errors import Retry, SystemError_
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import END, Barrier
from dataflare.resilience.policy import RetryPolicy
from dataflare.resilience.retry import Retrying
from dataflare.sdk.destination import Committable, RefusedRow, Writer, WriteStats


class Noting(Writer):
    """Notes its calls; refuses what it is told to refuse, and fails as often as it is told to."""

    def __init__(self, refused: Sequence[RefusedRow] = (), failures: int = 0) -> None:
        self.calls: list[object] = []
        self._refused, self._failures = list(refused), failures

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        self.calls.append("write")
        if self._failures:
            self._failures -= 1
            raise SystemError_("away", code="E0601", retry=Retry.LATER)
        return WriteStats(batch.num_rows, 7)

    async def flush(self) -> None:
        self.calls.append("flush")

    async def settle(self) -> Sequence[RefusedRow]:
        self.calls.append("settle")
        refused, self._refused = self._refused, []
        return refused

    def note_left_out(self, rows: Mapping[str, int]) -> None:
        self.calls.append(("left out", dict(rows)))

    async def prepare(self, epoch: int, *, final: bool) -> Committable:
        self.calls.append(("prepare", epoch, final))
        return Committable(0, {"epoch": epoch})

    async def aclose(self) -> None:
        self.calls.append("close")


class Resuming(Noting):
    resumes = True


class Advancing(Resuming):
    """Takes some of the rows with each call that fails."""

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        self.progress += 1
        return await super().write_batch(batch)


TWICE = Retrying("t", RetryPolicy(max_attempts=2, initial_backoff="1ms"))
REFUSED = [RefusedRow({"n": 2}, "E0510", "no"), RefusedRow({"n": 3}, "E0511", "never")]


def bench_of(writer: Writer, on_error: str = "fail", retrying: Retrying = TWICE) -> Bench:
    return Bench(Writing(writer, on_error, retrying), letters=True)


async def to_its_end(bench: Bench, left_out: Mapping[str, int] | None = None) -> None:
    """One batch, an epoch, the end, and the final epoch."""
    running = bench.start()
    await bench.ins[0].send(SharedDataBatch(ROWS))
    bench.ins[0].put(Barrier(1))
    bench.ins[0].put(END)
    await settle()
    while None not in bench.heard.epochs and not running.done():
        await asyncio.sleep(0)
    bench.task.checkpoint(Checkpoint(Barrier(2, final=True, left_out=left_out or {})))
    await running
    await bench.task.aclose()


def test_rows_are_counted_and_each_epoch_has_its_committable() -> None:
    async def main() -> None:
        writer = Noting()
        bench = bench_of(writer)
        await to_its_end(bench, {"a": 3})
        assert writer.calls == [
            "write", ("prepare", 1, False), "flush", ("left out", {"a": 3}), ("prepare", 2, True), "close",
        ]  # fmt: skip
        shares = {share.epoch: share.committable for share in bench.heard.shares}
        assert shares == {
            1: Committable(0, {"epoch": 1}), None: None, 2: Committable(0, {"epoch": 2}),
        }  # fmt: skip
        assert (bench.counts.rows_in, bench.counts.rows_out, bench.counts.bytes_out) == (3, 3, 7)
        assert bench.counts.seconds > 0

    run(main())


@pytest.mark.parametrize(("on_error", "letters"), [("skip", 0), ("dead_letter", 2)])
def test_refused_rows_leave_the_epoch_before_its_barrier(on_error: str, letters: int) -> None:
    async def main() -> None:
        writer = Noting(REFUSED)
        bench = bench_of(writer, on_error)
        await to_its_end(bench)
        assert writer.calls[:3] == ["write", "settle", ("prepare", 1, False)]
        assert writer.calls[3:5] == ["flush", "settle"], "asked again at the end"
        counts = bench.counts
        assert (counts.errors, counts.refused, counts.dead_letters) == (2, 2, letters)
        assert (counts.rows_in, counts.rows_out) == (3, 1)
        first = await bench.letters.next()
        if not letters:
            assert getattr(first, "barrier", None) == Barrier(1)
            return
        frame = first.batch.frame
        assert frame.select("step", "code", "message").rows() == [
            ("t", "E0510", "no"),
            ("t", "E0511", "never"),
        ]
        assert frame["row"].to_list() == ['{"n":2}', '{"n":3}']

    run(main())


def test_where_refused_rows_end_the_run_none_are_asked_for() -> None:
    async def main() -> None:
        writer = Noting(REFUSED)
        await to_its_end(bench_of(writer, "fail"))
        assert "settle" not in writer.calls

    run(main())


def test_a_writer_that_goes_on_where_it_stopped_is_called_again() -> None:
    async def main() -> None:
        writer = Resuming(failures=1)
        bench = bench_of(writer)
        await to_its_end(bench)
        assert writer.calls[:2] == ["write", "write"]
        assert bench.counts.rows_in == 3, "counted once"

    run(main())


def test_calls_that_come_further_are_not_counted_as_attempts() -> None:
    async def main() -> None:
        writer = Advancing(failures=4)
        await to_its_end(bench_of(writer))
        assert writer.calls[:5] == ["write"] * 5

    run(main())


@pytest.mark.parametrize("failing", [Noting(failures=1), Resuming(failures=2)])
def test_another_failure_ends_the_task(failing: Noting) -> None:
    async def main() -> None:
        bench = bench_of(failing)
        with pytest.raises(SystemError_):
            await to_its_end(bench)
        assert failing.calls.count("write") == (2 if failing.resumes else 1)
        assert bench.counts.rows_in == 0
        await bench.task.aclose()
        assert failing.calls[-1] == "close"

    run(main())


@pytest.mark.parametrize(("sent", "expected"), [(None, 3), (1, 1), (0, 0)])
def test_rows_that_were_held_back_are_not_counted_as_written(
    sent: int | None, expected: int
) -> None:
    async def main() -> None:
        writer = Noting()
        writer.rows_out = sent
        bench = bench_of(writer)
        await to_its_end(bench)
        assert bench.counts.rows_out == expected

    run(main())


def test_floats_that_the_system_has_no_form_for_are_counted() -> None:
    async def main() -> None:
        writer = Noting()
        writer.float_losses = ("nan",)
        bench = bench_of(writer)
        running = bench.start()
        for _ in range(2):
            frame = pl.DataFrame({"x": [1.0, float("nan"), float("nan")]})
            await bench.ins[0].send(SharedDataBatch(frame))
        bench.ins[0].put(END)
        await settle()
        bench.task.checkpoint(Checkpoint(Barrier(1, final=True)))
        await running
        (rows,) = bench.counts.warnings.values()
        assert rows == 4

    run(main())
