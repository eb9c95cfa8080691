"""What happens in workers is seen where the run is watched: rows, breakers, and what their processes use."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from servers.web import Answer, Asked, http_server
from worker_processes import WorkerProcesses

from dataflare.checkpoint.shared_store import SharedStore
from dataflare.errors import RunError
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.jobs.tapping import HIDDEN
from dataflare.jobs.watching import NO_ROWS
from dataflare.observability.prometheus import exposed
from dataflare.observability.view import ProcessView, RunView
from dataflare.workflow import load_text

SEEN = """
name: seen
sources:
  people:
    type: generate
    config: {rows: 200000, rate: 10000/s, seed: 1, columns: {id: {sequence: 0}, age: {int: [1, 90]}, card: {int: [1000, 9999]}}}
transformations:
  adults: {type: filter, inputs: [people], config: {condition: "age >= 18"}}
  hidden: {type: mask, inputs: [adults], config: {columns: {card: redact}}}
  totals: {type: aggregate, inputs: [hidden], config: {group_by: [age], measures: {n: "count(*)"}}}
destinations:
  out: {type: file, inputs: [totals], config: {path: out.csv}}
  rows: {type: file, inputs: [adults], config: {path: rows, format: csv}}
settings: {parallelism: 2, checkpoint: {interval: 200ms}}
"""


@pytest.fixture(scope="module")
def workers() -> Iterator[WorkerProcesses]:
    made = WorkerProcesses(2)
    yield made
    made.close()


def watched(
    folder: Path, text: str, workers: WorkerProcesses, look: Callable[[Any], None]
) -> RunResult:
    """A run, with a thread that looks at it and then stops it. An error of the thread is raised."""
    errors: list[BaseException] = []

    @contextlib.contextmanager
    def observer(watch: Any) -> Iterator[None]:
        def looking() -> None:
            try:
                look(watch)
            except BaseException as error:
                errors.append(error)
            finally:
                watch.on_loop(watch.interrupt)

        thread = threading.Thread(target=looking)
        thread.start()
        yield
        thread.join()

    options = RunOptions(
        home=folder / "home", workers=workers, storage=SharedStore, observers=[observer]
    )
    result = run(load_text(text, base=folder), options)
    if errors:
        raise errors[0]
    return result


def until(watch: Any, is_so: Callable[[RunView], bool]) -> RunView:
    """The first view for which it is so."""
    while True:
        view: RunView = watch.ask()
        if is_so(view):
            return view
        assert not view.has_ended, view


def tapped(watch: Any, step: str, where: str | None, per_s: float) -> Any:
    while True:
        try:
            return watch.tap(step, where, per_s)
        except RunError as error:
            if error.code != NO_ROWS:
                raise


def test_a_look_shows_rows_of_workers_and_hides_what_the_workflow_hides(
    tmp_path: Path, workers: WorkerProcesses
) -> None:
    shown: list[pl.DataFrame] = []

    def look(watch: Any) -> None:
        until(watch, lambda view: view.status == "running")
        tap = tapped(watch, "totals", "age > 80", 200.0)
        for frame in tap.rows(60.0):
            assert frame is not None, "no rows for a minute"
            shown.append(frame)
            if sum(each.height for each in shown) >= 100:
                break
        watch.untap(tap)
        other = tapped(watch, "rows", None, 50.0)
        shown.append(next(frame for frame in other.rows(60.0) if frame is not None))
        watch.untap(other)

    result = watched(tmp_path, SEEN, workers, look)
    assert result.status == "stopped" or result.status == "interrupted", result.error
    *of_totals, of_rows = shown
    assert min(int(age) for frame in of_totals for age in frame["age"]) > 80
    assert set(of_rows["card"]) == {HIDDEN}


def process_of(view: RunView, worker: str) -> ProcessView:
    process = view.workers[worker].process
    assert process is not None
    return process


def test_what_workers_use_is_in_the_view_and_the_metrics(
    tmp_path: Path, workers: WorkerProcesses
) -> None:
    views: list[RunView] = []

    def look(watch: Any) -> None:
        views.append(
            until(
                watch,
                lambda view: (
                    {"w0", "w1"} <= view.workers.keys()
                    and any(any(worker.sent_bytes.values()) for worker in view.workers.values())
                ),
            )
        )

    watched(tmp_path, SEEN, workers, look)
    (view,) = views
    pids = {process.pid for process in workers.processes if process is not None}
    assert {process_of(view, name).pid for name in ("w0", "w1")} == pids
    assert all((process_of(view, name).rss_bytes or 0) > 10 << 20 for name in ("w0", "w1"))
    assert RunView.from_json(view.to_json()).workers == view.workers
    for name, worker in view.workers.items():
        assert worker.tasks > 0
        assert worker.spent.total_s > 0
        assert worker.sent_bytes.keys() <= view.workers.keys() - {name}
    text = exposed([view]).decode()
    assert 'dataflare_worker_resident_memory_bytes{worker="w0",workflow="seen"}' in text
    assert 'dataflare_worker_threads{worker="w1",workflow="seen"}' in text


BREAKING = """
name: breaking
sources:
  ids: {type: generate, config: {rows: 400, seed: 1, columns: {id: {sequence: 0}}}}
transformations:
  known:
    type: lookup
    inputs: [ids]
    config:
      source: {type: http, url: "URL/{id}"}
      mapping: {key: id, remote_key: id, fields: [name]}
    error_handling:
      retry_policy: {max_attempts: 100, initial_backoff: 10ms, max_backoff: 10ms}
      circuit_breaker: {failure_rate: 0.5, window: 60s, recovery: 700ms}
destinations:
  out: {type: file, inputs: [known], config: {path: out, format: csv}}
settings: {parallelism: 2}
"""


def test_a_breaker_that_opens_in_a_worker_is_seen_and_holds_the_others_back(
    tmp_path: Path, workers: WorkerProcesses
) -> None:
    is_well = threading.Event()

    def answer(asked: Asked) -> Answer:
        if not is_well.is_set():
            return Answer(None, 503)
        return Answer([{"id": int(asked.path.rpartition("/")[2]), "name": "x"}])

    held: list[list[str]] = []

    def look(watch: Any) -> None:
        until(watch, lambda view: view.steps["known"].is_held_back)
        until(
            watch,
            lambda view: (
                sum("known" in each.held_back for each in watch.metrics.workers.values()) == 2
            ),
        )
        held.append(["both"])
        is_well.set()
        until(watch, lambda view: not view.steps["known"].is_held_back or view.has_ended)

    with http_server(answer) as server:
        watched(tmp_path, BREAKING.replace("URL", server.url), workers, look)
    assert held
