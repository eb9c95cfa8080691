"""A lookup asks an overloaded server with fewer requests at once, and a run shows how many."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from servers.web import Answer, Asked, http_server

from dataflare.jobs import RunOptions, run
from dataflare.jobs.watching import Watch
from dataflare.workflow.load import load_text


def test_a_server_that_takes_two_requests_at_once_gets_few_more(tmp_path: Path) -> None:
    lock, under_way, refused = threading.Lock(), [0], [0]
    limits: list[float | None] = []
    watches: list[Watch] = []

    def answer(asked: Asked) -> Answer:
        with lock:
            under_way[0] += 1
            too_many = under_way[0] > 2
            refused[0] += too_many
        if watches:
            limits.append(watches[0].step_views()["named"].requests_max)
        with lock:
            under_way[0] -= 1
        return Answer(None, 429) if too_many else Answer({"name": f"n{asked.path[-1]}"})

    @contextmanager
    def observed(watch: Watch) -> Iterator[None]:
        watches.append(watch)
        yield

    with http_server(answer) as server:
        text = f"""\
name: overloaded
settings: {{parallelism: 1, batch: {{initial: 100, min: 100, max: 100}}, restart: {{attempts: 0}}}}
sources:
  rows: {{type: generate, config: {{columns: {{id: {{sequence: 0}}}}, rows: 400}}}}
transformations:
  named:
    type: lookup
    inputs: [rows]
    config:
      source: {{type: http, url: "{server.url}/names/{{id}}", concurrency: 16}}
      mapping: {{key: id, fields: [name]}}
    error_handling: {{retry_policy: {{max_attempts: 100, initial_backoff: 1ms, max_backoff: 5ms}}}}
destinations:
  out: {{type: file, inputs: [named], config: {{path: out.csv}}}}
"""
        result = run(
            load_text(text, base=tmp_path), RunOptions(tmp_path / "home", observers=[observed])
        )
    assert result.status == "finished", result.error
    out = pl.read_csv(tmp_path / "out.csv").sort("id")
    assert out["name"].to_list() == [f"n{n % 10}" for n in range(400)]
    told = [limit for limit in limits if limit is not None]
    assert told
    assert all(1 <= limit <= 16 for limit in told)
    if refused[0]:
        assert min(told) < 16
