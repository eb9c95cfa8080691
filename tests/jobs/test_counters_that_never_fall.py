"""What is exported as a counter never falls while a process lives, whatever is done again or refused later."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dataflare.engine.metrics import JobMetrics
from dataflare.jobs.options import RunOptions
from dataflare.jobs.run import run
from dataflare.jobs.watching import Watch
from dataflare.observability.table import METRICS
from dataflare.workflow.load import load_text

WORKFLOW = """
name: w
version: "1.0"
settings: {{checkpoint: {{interval: 50ms}}, restart: {{delay: 10ms}}}}
sources: {{s: {{type: generate, config: {{columns: {{id: {{sequence: 0}}}}, rate: 3000/s, rows: 1200}}}}}}
destinations:
  h: {{type: http, inputs: [s], config: {{url: "{url}", batch_size: 50, {more}}}, error_handling: {{on_error: {on_error}}}}}
"""


def answering(
    status_of: dict[int, int], looked: list[dict[str, float]], watches: list[Watch]
) -> HTTPServer:
    """A server that looks at the run at each request. status_of: by number of the request."""
    numbers = iter(range(10**6))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            looked.append(counters(watches[0]))
            self.send_response(status_of.get(next(numbers), 200))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


def counters(watch: Watch) -> dict[str, float]:
    view = watch.ask(5.0)
    return {
        f"{metric.name}{labels}": value
        for metric in METRICS
        if metric.kind == "counter"
        for labels, value in metric.read(view)
    }


@contextlib.contextmanager
def watching(watches: list[Watch], watch: Watch) -> Iterator[None]:
    watches.append(watch)
    yield


@pytest.mark.parametrize(
    ("statuses", "on_error"),
    [({5: 500, 6: 500, 11: 500}, "fail"), ({4: 400, 9: 400}, "skip"), ({}, "fail")],
)
def test_no_counter_of_a_run_falls(tmp_path: Path, statuses: dict[int, int], on_error: str) -> None:
    looked: list[dict[str, float]] = []
    watches: list[Watch] = []
    server = answering(statuses, looked, watches)
    url = f"http://127.0.0.1:{server.server_port}/"
    text = WORKFLOW.format(url=url, more="", on_error=on_error)
    try:
        result = run(
            load_text(text, base=tmp_path),
            RunOptions(tmp_path / "home", observers=[lambda watch: watching(watches, watch)]),
        )
    finally:
        server.shutdown()
        server.server_close()
    assert result.status == "finished", result.error
    assert len(looked) > 12
    fallen = [
        (name, before[name], after.get(name))
        for before, after in itertools.pairwise(looked)
        for name in before
        if after.get(name, -1.0) < before[name]
    ]
    assert fallen == []
    assert result.steps["h"]["rows_out"] + result.steps["h"]["errors"] == 1200


def test_rows_that_are_refused_later_stay_counted_in_what_is_exported() -> None:
    metrics = JobMetrics({"a": "destination"})
    task = metrics.of_task("a")
    task.step("a").add_rows(10, 10)
    assert metrics.processed["a"].rows_out == 10
    task.step("a").take_back(4)
    assert (metrics.steps["a"].rows_out, metrics.processed["a"].rows_out) == (6, 10)
    metrics.rewind()
    metrics.of_task("a").step("a").add_rows(10, 10)
    assert (metrics.steps["a"].rows_out, metrics.processed["a"].rows_out) == (10, 20)
