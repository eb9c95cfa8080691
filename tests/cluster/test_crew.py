"""A run on workers in other processes gives what it gives in one, and nothing is lost when a worker dies."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from worker_processes import WorkerProcesses

from dataflare.checkpoint.shared_store import SharedStore
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.jobs.progress import Progress
from dataflare.observability import bottleneck
from dataflare.workflow import load

ROWS = 60_000


@pytest.fixture(scope="module")
def workers() -> Iterator[WorkerProcesses]:
    made = WorkerProcesses(2)
    yield made
    made.close()


def on_workers(
    folder: Path, text: str, workers: WorkerProcesses | None, **more: object
) -> RunResult:
    file = folder / "w.yaml"
    file.write_text(text)
    options = RunOptions(home=folder / "home", **more)  # type: ignore[arg-type]
    if workers is not None:
        options = RunOptions(
            home=folder / "home",
            workers=workers,
            storage=SharedStore,
            **more,  # type: ignore[arg-type]
        )
    return run(load(file), options)


def events(folder: Path) -> None:
    for part in range(4):
        ids = range(part * ROWS // 4, (part + 1) * ROWS // 4)
        frame = pl.DataFrame({"id": ids}).with_columns(
            user=pl.col("id") % 97,
            amount=pl.col("id") * 3 % 1_000,
            at=pl.datetime(2026, 1, 1, time_unit="us")
            + pl.duration(milliseconds=pl.col("id") * 10),
        )
        (folder / "in").mkdir(exist_ok=True)
        frame.write_csv(folder / "in" / f"{part}.csv")


WORKFLOWS = {
    "rows": """
name: rows
sources: {events: {type: file, config: {path: in/*.csv}}}
transformations:
  good: {type: filter, inputs: [events], config: {condition: "amount > 500"}}
  more: {type: map, inputs: [good], config: {derive: {twice: "amount * 2"}}}
destinations: {out: {type: file, inputs: [more], config: {path: out.csv}}}
settings: {parallelism: 4}
""",
    "aggregate": """
name: aggregate
sources: {events: {type: file, config: {path: in/*.csv}}}
transformations:
  sums: {type: aggregate, inputs: [events], config: {group_by: [user], measures: {n: "count(*)", total: "sum(amount)"}}}
destinations: {out: {type: file, inputs: [sums], config: {path: out.csv}}}
settings: {parallelism: 4}
""",
    "windows": """
name: windows
sources:
  events: {type: file, config: {path: in/*.csv}, event_time: {column: at, out_of_orderness: 10m}}
transformations:
  per_minute:
    type: window
    inputs: [events]
    config: {kind: tumbling, size: 1m, group_by: [user], measures: {n: "count(*)", total: "sum(amount)"}}
destinations: {out: {type: file, inputs: [per_minute], config: {path: out.csv}}}
settings: {parallelism: 3}
""",
    "join": """
name: join
sources:
  events: {type: file, config: {path: in/*.csv}}
  others: {type: file, config: {path: in/0.csv}}
transformations:
  fewer: {type: map, inputs: [others], config: {select: [user, id], derive: {other: amount}}}
  both: {type: join, inputs: [events, fewer], config: {kind: left, on: [user, id]}}
destinations: {out: {type: file, inputs: [both], config: {path: out.csv}}}
settings: {parallelism: 4}
""",
}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workers_give_what_one_process_gives(
    name: str, tmp_path: Path, workers: WorkerProcesses
) -> None:
    results, outcomes = [], []
    for where in (None, workers):
        folder = tmp_path / ("one" if where is None else "many")
        folder.mkdir()
        events(folder)
        result = on_workers(folder, WORKFLOWS[name], where)
        assert result.status == "finished", result.error and (result.error, result.error.notes)
        results.append(sorted((folder / "out.csv").read_text().splitlines()))
        outcomes.append(result)
    assert results[0] == results[1]
    assert len(results[0]) > 50
    assert outcomes[0].steps == outcomes[1].steps


def test_an_error_in_a_worker_is_told_as_in_one_process(
    tmp_path: Path, workers: WorkerProcesses
) -> None:
    text = WORKFLOWS["rows"].replace('"amount * 2"', "\"cast(concat('n', amount) as bigint)\"")
    errors = []
    for where in (None, workers):
        folder = tmp_path / ("one" if where is None else "many")
        folder.mkdir()
        events(folder)
        result = on_workers(folder, text, where)
        assert result.status == "failed"
        assert result.error is not None
        error = result.error
        assert error.spot is not None
        place = error.spot.line, error.spot.column
        # Which row fails first is chance.
        message = re.sub(r"in/[0-3].csv line [0-9]+", "", error.message)
        errors.append((message, error.code, error.step, error.help, place, error.blame))
    assert errors[0] == errors[1]


GENERATED = """
name: generated
sources:
  events:
    type: generate
    config: {rows: 30000, seed: 3, %s columns: {user: {int: [1, 97]}, amount: {int: [0, 999]}}}
transformations:
  sums: {type: aggregate, inputs: [events], config: {group_by: [user], measures: {n: "count(*)", total: "sum(amount)"}}}
destinations:
  out: {type: file, inputs: [sums], config: {path: out.csv}}
  rows: {type: file, inputs: [events], config: {path: rows, format: csv}}
settings:
  parallelism: 4
  checkpoint: {interval: 100ms}
  restart: {attempts: 20, delay: 0s}
"""


def written(folder: Path) -> tuple[list[str], list[tuple[int, int]]]:
    """The sums, and the rows in order."""
    rows = pl.concat([pl.read_csv(each) for each in (folder / "rows").glob("**/*.csv")])
    return sorted((folder / "out.csv").read_text().splitlines()), sorted(rows.rows())


def test_a_step_that_goes_at_its_rate_in_workers_is_told(
    tmp_path: Path, workers: WorkerProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bottleneck, "_AT_RATE", 0.1)  # a part of the time the workers begin
    events(tmp_path)
    text = WORKFLOWS["rows"].replace("out: {type: file,", "out: {type: file, rate: 1/h,")
    result = on_workers(tmp_path, text, workers, for_s=2.0)
    assert result.status == "stopped", result.error
    assert "held to its rate of 0.000277778 rows/s" in str(result.slowest)


def test_a_worker_that_dies_costs_no_row(tmp_path: Path) -> None:
    """One is killed again and again while rows flow; the run goes on with another one each time."""
    workers = WorkerProcesses(2)
    killed: list[int] = []

    def listen(progress: Progress) -> None:
        done = progress.checkpoints
        is_new = done > (killed[-1] if killed else 0)
        if is_new and len(killed) < 3 and workers.starts == 2 + len(killed):
            killed.append(done)
            process = workers.processes[len(killed) % 2]
            assert process is not None
            os.kill(process.pid, signal.SIGKILL)

    folders = [tmp_path / "one", tmp_path / "many"]
    for folder in folders:
        folder.mkdir()
    try:
        result = on_workers(folders[1], GENERATED % "rate: 5000/s,", workers, listener=listen)
    finally:
        workers.close()
    assert result.status == "finished", result.error
    assert len(killed) == 3
    assert on_workers(folders[0], GENERATED % "", None).status == "finished"
    assert written(folders[0]) == written(folders[1])


def test_a_worker_that_hangs_is_left_behind_and_writes_nothing_when_it_wakes(
    tmp_path: Path,
) -> None:
    """It is stopped in the middle, as a machine that is cut off; when the run goes on with another one, it comes back."""
    workers = WorkerProcesses(2)
    stopped: list[int] = []

    def listen(progress: Progress) -> None:
        if progress.checkpoints and not stopped:
            process = workers.processes[1]
            assert process is not None
            stopped.append(process.pid)
            os.kill(process.pid, signal.SIGSTOP)
        elif workers.starts == 3 and len(stopped) == 1:
            stopped.append(0)
            os.kill(stopped[0], signal.SIGCONT)

    folders = [tmp_path / "one", tmp_path / "many"]
    for folder in folders:
        folder.mkdir()
    try:
        result = on_workers(folders[1], GENERATED % "rate: 3000/s,", workers, listener=listen)
    finally:
        workers.close()
    assert result.status == "finished", result.error
    assert len(stopped) == 2, "it came back while the run went on"
    assert any("E0830" in warning for warning in result.warnings)
    assert on_workers(folders[0], GENERATED % "", None).status == "finished"
    assert written(folders[0]) == written(folders[1])


def test_rows_that_are_left_out_while_a_run_is_degraded_are_counted_over_all_workers(
    tmp_path: Path, workers: WorkerProcesses
) -> None:
    text = """
name: degraded
sources:
  numbers: {type: generate, config: {rows: 20000, rate: 6000/s, seed: 1, columns: {n: {sequence: 0}}}}
destinations:
  out: {type: file, inputs: [numbers], config: {path: out, format: csv}}
settings:
  parallelism: 2
  degrade: {when: "elapsed > 1s", sample: 0.25}
"""
    result = on_workers(tmp_path, text, workers)
    assert result.status == "finished", result.error
    written = pl.concat([pl.read_csv(each) for each in (tmp_path / "out").glob("*.csv")])
    left_out = result.steps["numbers"]["degraded"]
    assert left_out > 0
    assert written.height + left_out == 20_000
    assert written["n"].n_unique() == written.height
