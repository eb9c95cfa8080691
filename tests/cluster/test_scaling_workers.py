"""A run on workers gets more and fewer of them while it goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_crew import GENERATED, on_workers, written
from worker_processes import WorkerProcesses

from dataflare.errors import DataFlareError
from dataflare.jobs import RunResult
from dataflare.jobs.progress import Progress
from dataflare.jobs.scaling import Scaled
from dataflare.jobs.watching import Watch

Until = Callable[[int], None]
"""Waits for so many checkpoints."""


def asked(
    folder: Path, workers: WorkerProcesses, asks: Callable[[Watch, Until], None], rate: str
) -> RunResult:
    """A run that is asked for things on a thread of its own while it goes on."""
    moved = threading.Condition()
    seen = 0

    def listen(progress: Progress) -> None:
        nonlocal seen
        with moved:
            seen = progress.checkpoints
            moved.notify_all()

    def until(checkpoints: int) -> None:
        with moved:
            assert moved.wait_for(lambda: seen >= checkpoints, timeout=60)

    @contextlib.contextmanager
    def observed(watch: Watch) -> Iterator[None]:
        asking = threading.Thread(target=asks, args=(watch, until))
        asking.start()
        yield
        asking.join(60)

    more: dict[str, object] = {"listener": listen, "observers": [observed], "follows": True}
    try:
        return on_workers(folder, GENERATED % f"rate: {rate},", workers, **more)
    finally:
        workers.close()


def is_as_in_one_process(folder: Path, other: Path) -> None:
    other.mkdir()
    assert on_workers(other, GENERATED % "", None).status == "finished"
    assert written(folder) == written(other)


def test_up_and_down(tmp_path: Path) -> None:
    workers = WorkerProcesses(2)
    answers: list[Scaled] = []
    alive: list[int] = []

    def asks(watch: Watch, until: Until) -> None:
        for count in (4, 1, 3):
            until(3 * len(answers) + 2)
            answers.append(watch.scale(count, None).result(60))
            alive.append(len(workers.processes))

    folder = tmp_path / "many"
    folder.mkdir()
    result = asked(folder, workers, asks, "3000/s")
    assert result.status == "finished", result.error
    assert [(a.now.workers, a.now.parallelism) for a in answers] == [(4, 4), (1, 1), (3, 3)]
    assert alive == [4, 1, 3], "workers that are not used are given back"
    assert not result.warnings
    assert result.steps["events"]["rows_out"] == 30_000
    is_as_in_one_process(folder, tmp_path / "one")


def test_more_than_there_is_room_for_is_refused_and_the_run_goes_on(tmp_path: Path) -> None:
    workers = WorkerProcesses(2, room=3)
    errors: list[BaseException | None] = []

    def asks(watch: Watch, until: Until) -> None:
        until(2)
        errors.append(watch.scale(4, None).exception(60))
        errors.append(watch.scale(None, 3).exception(60))

    folder = tmp_path / "many"
    folder.mkdir()
    result = asked(folder, workers, asks, "6000/s")
    assert result.status == "finished", result.error
    assert isinstance(errors[0], DataFlareError)
    assert (errors[0].code, errors[1]) == ("E0617", None)
    assert (workers.starts, workers.count) == (2, 2)
    is_as_in_one_process(folder, tmp_path / "one")


@pytest.mark.parametrize("to", [3, 1])
def test_a_worker_that_dies_meanwhile_costs_no_row(tmp_path: Path, to: int) -> None:
    workers = WorkerProcesses(2)
    ends: list[Scaled | BaseException] = []

    def asks(watch: Watch, until: Until) -> None:
        until(2)
        answer = watch.scale(to, None)
        process = workers.processes[0]
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        ends.append(answer.exception(60) or answer.result(60))

    folder = tmp_path / "many"
    folder.mkdir()
    result = asked(folder, workers, asks, "5000/s")
    assert result.status == "finished", result.error
    (end,) = ends
    if isinstance(end, Scaled):
        assert end.now.workers == workers.count == to
    else:
        assert isinstance(end, DataFlareError)
        assert workers.count == 2
    is_as_in_one_process(folder, tmp_path / "one")


def test_a_new_worker_that_cannot_begin_leaves_the_size_as_it_was(tmp_path: Path) -> None:
    """It hangs as soon as it is placed: the run goes on with those that it had, and counts no failure."""

    class Hanging(WorkerProcesses):
        async def hold(self, count: int) -> None:
            await super().hold(count)
            process = self.processes[2]
            assert process is not None
            os.kill(process.pid, signal.SIGSTOP)

    workers = Hanging(2)
    errors: list[BaseException | None] = []

    def asks(watch: Watch, until: Until) -> None:
        until(2)
        errors.append(watch.scale(3, None).exception(60))

    folder = tmp_path / "many"
    folder.mkdir()
    result = asked(folder, workers, asks, "2500/s")
    assert result.status == "finished", result.error
    (error,) = errors
    assert isinstance(error, DataFlareError)
    assert error.code in ("E0830", "E0831")
    assert "the run goes on with the size that it had" in error.notes
    assert workers.count == len(workers.processes) == 2
    assert not [warning for warning in result.warnings if "restarted" in warning]
    is_as_in_one_process(folder, tmp_path / "one")
