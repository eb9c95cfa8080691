"""A run that is stopped while rows flow into a system that fails."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from servers.web import Answer, Asked, http_server

from dataflare.jobs import Progress, RunOptions, RunResult, run
from dataflare.workflow.load import load_text

TEXT = """\
name: stopped
settings:
  parallelism: 1
  checkpoint: {interval: INTERVAL}
  restart: {attempts: ATTEMPTS, delay: 1h, max_delay: 1h}
sources:
  rows: {type: generate, config: {columns: {n: {sequence: 0}}, rows: 400, rate: 200/s}}
destinations:
  out:
    type: http
    inputs: [rows]
    config: {url: "URL", batch_size: 10, guarantee: GUARANTEE}
    error_handling: {HANDLING}
"""
_RETRIES = "retry_policy: {max_attempts: 1000, initial_backoff: 1h, max_backoff: 1h}"
_BREAKER = (
    "retry_policy: {max_attempts: 1000, initial_backoff: 1ms, max_backoff: 1ms},"
    " circuit_breaker: {failure_rate: 0.1, window: 60s, recovery: 1h}"
)


class Failing:
    """A server that takes each key once, and answers 503 after some requests while `fails`."""

    def __init__(self, after: int) -> None:
        self.after, self.fails = after, True
        self.by_key: dict[str, list[int]] = {}

    def answer(self, asked: Asked) -> Answer:
        if self.fails and len(self.by_key) >= self.after:
            return Answer(None, 503)
        self.by_key[asked.headers["Idempotency-Key"]] = [row["n"] for row in asked.json()]
        return Answer(None, 204)

    @property
    def rows(self) -> list[int]:
        return sorted(n for rows in self.by_key.values() for n in rows)


def filled(url: str, **more: str) -> str:
    text = TEXT.replace("URL", url)
    defaults = {
        "INTERVAL": "30ms",
        "ATTEMPTS": "3",
        "GUARANTEE": "effectively_once",
        "HANDLING": _RETRIES,
    }
    for name, value in (defaults | more).items():
        text = text.replace(name, value)
    return text


def stopped(text: str, home: Path, *words: str, **options: Any) -> tuple[RunResult, float]:
    """Stop a run by SIGTERM when it says one of these; its result, and how long it took to end."""
    told_s: list[float] = []

    def listen(progress: Progress) -> None:
        message = progress.message or ""
        if not told_s and any(each in message for each in words):
            told_s.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)

    result = run(load_text(text, base=home), RunOptions(home, listener=listen, **options))
    return result, time.monotonic() - told_s[0]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "trying again in"),
        ({"HANDLING": _BREAKER}, "none is made for"),
        ({"HANDLING": "retry_count: 0"}, "restarting in"),
        ({"INTERVAL": "1h"}, "trying again in"),
    ],
    ids=["retry", "breaker", "restart", "at_the_end"],
)
def test_a_stop_ends_the_waits_for_a_failing_system(
    tmp_path: Path, more: dict[str, str], words: str
) -> None:
    server = Failing(after=3)
    with http_server(server.answer) as web:
        text = filled(web.url, **more)
        result, seconds = stopped(text, tmp_path, words)
        assert result.status == "interrupted"
        assert any("stopped without a last checkpoint after E" in each for each in result.warnings)
        assert seconds < 30, "the waits are an hour long"
        server.fails = False
        again = run(load_text(text, base=tmp_path), RunOptions(tmp_path))
    assert (again.status, again.error) == ("finished", None)
    assert server.rows == list(range(400))


def test_a_system_that_fails_for_a_moment_costs_no_last_checkpoint(tmp_path: Path) -> None:
    server = Failing(after=3)

    def fails_once(asked: Asked) -> Answer:
        told = server.answer(asked)
        server.fails = server.fails and told.status != 503
        return told

    with http_server(fails_once) as web:
        text = filled(web.url)
        result, _ = stopped(text, tmp_path, "trying again in")
        assert (result.status, result.error) == ("interrupted", None)
        assert not any("without a last checkpoint" in each for each in result.warnings)
        again = run(load_text(text, base=tmp_path), RunOptions(tmp_path))
    assert again.status == "finished"
    assert server.rows == list(range(400))


def test_a_source_that_fails_does_not_keep_a_stop_from_its_checkpoint(tmp_path: Path) -> None:
    asked_pages: list[str] = []

    def pages(asked: Asked) -> Answer:
        page = int(asked.params.get("page", "1"))
        asked_pages.append(str(page))
        if page > 2:
            return Answer(None, 503)
        return Answer({"items": [{"n": page * 10 + each} for each in range(10)], "more": True})

    with http_server(pages) as web:
        text = f"""\
name: stopped
settings: {{checkpoint: {{interval: 1h}}}}
sources:
  rows:
    type: http
    config: {{url: "{web.url}", records: $.items, pagination: {{type: page, param: page}}}}
    schema: {{n: int64}}
    error_handling: {{{_RETRIES}}}
destinations:
  out: {{type: file, inputs: [rows], config: {{path: out, format: ndjson}}}}
"""
        result, _ = stopped(text, tmp_path, "trying again in")
    assert (result.status, result.error) == ("interrupted", None)
    assert not any("without a last checkpoint" in each for each in result.warnings)


def test_a_stop_does_not_wait_for_the_breaker_of_a_writer_that_does_not_resume(
    tmp_path: Path,
) -> None:
    """All its calls are slow, so its breaker opens while the writer lives, and the next call waits."""
    text = """\
name: stopped
settings: {parallelism: 1, checkpoint: {interval: 1h}}
sources:
  rows: {type: generate, config: {columns: {n: {sequence: 0}}, rows: 400, rate: 200/s}}
destinations:
  out:
    type: memory
    inputs: [rows]
    config: {name: breaker_of_a_stop}
    error_handling: {circuit_breaker: BREAKER}
"""
    breaker = "{failure_rate: 0.1, window: 60s, slow_call: 1us, recovery: 1h}"
    result, seconds = stopped(text.replace("BREAKER", breaker), tmp_path, "none is made for")
    assert result.status == "interrupted"
    assert any("stopped without a last checkpoint after E0615" in each for each in result.warnings)
    assert seconds < 30, "the breaker stays open for an hour"
    again = run(load_text(text.replace("BREAKER", "null"), base=tmp_path), RunOptions(tmp_path))
    assert (again.status, again.steps["out"]["rows_out"]) == ("finished", 400)
