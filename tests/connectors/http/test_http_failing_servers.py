"""A server that fails in each of the usual ways: the exact rows that it has taken, and the exact dead letters."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from math import ceil, log2
from pathlib import Path

import pytest
from servers.web import Answer, Asked, http_server

from dataflare.jobs import Progress, RunOptions, RunResult, run
from dataflare.testing import FaultProxy, Faults
from dataflare.workflow.load import load_text

ROWS, BATCH = 10_000, 100
PATIENT = "retry_policy: {max_attempts: 40, initial_backoff: 1ms, max_backoff: 2ms}"


class Taking:
    """A server that knows the key of each request, as one that acts once per key does. fails: asked first; what it gives
    is the answer."""

    def __init__(self, fails: Callable[[Asked, list[int]], Answer | None]) -> None:
        self.rows: list[int] = []
        self.requests = 0
        self._fails, self._keys = fails, set[str]()
        self._lock = threading.Lock()

    def answer(self, asked: Asked) -> Answer:
        ids = [row["id"] for row in asked.json()]
        with self._lock:
            self.requests += 1
            failure = self._fails(asked, ids)
            if failure is None or failure.cut:
                key = asked.headers["Idempotency-Key"]
                if key not in self._keys:
                    self._keys.add(key)
                    self.rows += ids
        return failure or Answer()


def start(
    folder: Path, url: str, handling: str = PATIENT, *, more: str = "",
    listener: Callable[[str], None] = lambda message: None,
) -> RunResult:  # fmt: skip
    text = f"""\
name: failing
settings: {{parallelism: 1, restart: {{attempts: 0}}, error_handling: {{{handling}}}}}
sources:
  rows: {{type: generate, config: {{columns: {{id: {{sequence: 0}}}}, rows: {ROWS}}}}}
destinations:
  hook: {{type: http, inputs: [rows], config: {{url: "{url}", batch_size: {BATCH}{more}}}}}
"""

    def told(progress: Progress) -> None:
        if progress.message:
            listener(progress.message)

    return run(load_text(text, base=folder), RunOptions(folder / "home", listener=told))


def letters(folder: Path) -> list[int]:
    files = sorted((folder / "home/failing/dead_letters").glob("*.ndjson"))
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert {(each["step"], each["code"]) for each in lines} <= {("hook", "E0510")}
    return [json.loads(each["row"])["id"] for each in lines]


@pytest.mark.parametrize("seed", range(3))
def test_a_server_that_fails_three_calls_in_ten(tmp_path: Path, seed: int) -> None:
    """Before it has taken the rows, or after that and before its answer is whole."""
    chance = random.Random(seed)
    failures = [
        Answer(None, 503),
        Answer(None, 429, {"Retry-After": "0"}),
        Answer({"x": 1}, cut=True),
    ]

    def fails(asked: Asked, ids: list[int]) -> Answer | None:
        return chance.choice(failures) if chance.random() < 0.3 else None

    taking = Taking(fails)
    with http_server(taking.answer) as server:
        result = start(tmp_path, server.url)
    assert result.status == "finished", result.error
    assert taking.rows == list(range(ROWS))
    assert result.steps["hook"]["rows_out"] == ROWS
    assert taking.requests > ROWS // BATCH
    assert letters(tmp_path) == []


def test_a_server_that_hangs(tmp_path: Path) -> None:
    """Three requests are never answered, in the middle of the run."""
    released, hung = threading.Event(), []
    taking = Taking(lambda asked, ids: None)

    def answer(asked: Asked) -> Answer:
        if asked.json()[0]["id"] == 5_000 and len(hung) < 3:
            hung.append(asked)
            released.wait()
            return Answer(None, 503)
        return taking.answer(asked)

    with http_server(answer) as server:
        try:
            result = start(tmp_path, server.url, more=", timeout: 200ms")
        finally:
            released.set()
    assert result.status == "finished", result.error
    assert (len(hung), taking.rows) == (3, list(range(ROWS)))
    assert [w for w in result.warnings if "tried again 3 times after E0608" in w]


def test_a_server_that_hangs_for_ever_ends_the_run_and_says_where(tmp_path: Path) -> None:
    released = threading.Event()
    with http_server(lambda asked: Answer(None, 503 if released.wait() else 500)) as server:
        try:
            handling = "retry_policy: {max_attempts: 3, initial_backoff: 1ms}"
            result = start(tmp_path, server.url, handling, more=", timeout: 50ms")
        finally:
            released.set()
    assert (result.status, result.exit_status) == ("failed", 1)
    assert result.error is not None
    assert (result.error.code, result.error.step) == ("E0608", "hook")
    assert "did not answer within 0.05 s (after 3 attempts)" in result.error.message


def test_a_server_that_answers_late(tmp_path: Path) -> None:
    """Each answer takes longer than `slow_call`: all rows arrive, and the breaker lets one request at a time through."""
    said: list[str] = []
    taking = Taking(lambda asked, ids: None)
    breaker = "circuit_breaker: {slow_call: 1ms, slow_call_rate: 0.8, window: 60s, recovery: 1ms}"
    with http_server(taking.answer) as server:
        port = int(server.url.rpartition(":")[2])
        with FaultProxy("127.0.0.1", port) as proxy:
            proxy.faults = Faults(delay_s=0.005)
            url = f"http://127.0.0.1:{proxy.port}"
            result = start(tmp_path, url, f"{PATIENT}, {breaker}", listener=said.append)
    assert result.status == "finished", result.error
    assert taking.rows == list(range(ROWS))
    assert taking.requests == ROWS // BATCH, "a slow answer is used"
    assert [text for text in said if "were slow at 127.0.0.1" in text]
    assert not [w for w in result.warnings if "tried again" in w]


def test_a_server_that_is_away_for_a_while(tmp_path: Path) -> None:
    """In the middle of the run its connections break, and it takes no new ones until the breaker has opened again."""
    taking = Taking(lambda asked, ids: None)
    breaker = "circuit_breaker: {failure_rate: 0.05, window: 60s, recovery: 5ms}"
    proxies: list[FaultProxy] = []
    opened: list[str] = []

    def answer(asked: Asked) -> Answer:
        if asked.json()[0]["id"] == 3_000 and not opened:
            proxies[0].refuses = True
            proxies[0].reset()
            return Answer(None, 503)
        return taking.answer(asked)

    def listener(message: str) -> None:
        if "none is made for" in message:
            opened.append(message)
            proxies[0].refuses = len(opened) < 3

    with http_server(answer) as server:
        port = int(server.url.rpartition(":")[2])
        with FaultProxy("127.0.0.1", port) as proxy:
            proxies.append(proxy)
            url = f"http://127.0.0.1:{proxy.port}"
            result = start(tmp_path, url, f"{PATIENT}, {breaker}", listener=listener)
    assert result.status == "finished", result.error
    assert len(opened) == 3
    assert taking.rows == list(range(ROWS))
    assert letters(tmp_path) == []


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_one_row_in_a_thousand(tmp_path: Path, status: int) -> None:
    """Exactly these become dead letters, and finding one costs two requests for each halving at most."""

    def fails(asked: Asked, ids: list[int]) -> Answer | None:
        return Answer({"error": "no"}, status) if any(i % 1000 == 7 for i in ids) else None

    taking = Taking(fails)
    with http_server(taking.answer) as server:
        result = start(tmp_path, server.url, f"{PATIENT}, on_error: dead_letter")
    assert result.status == "finished", result.error
    guilty = [i for i in range(ROWS) if i % 1000 == 7]
    assert taking.rows == [i for i in range(ROWS) if i % 1000 != 7]
    assert letters(tmp_path) == guilty
    step = result.steps["hook"]
    assert (step["rows_out"], step["errors"], step["dead_letters"]) == (ROWS - 10, 10, 10)
    assert taking.requests <= ROWS // BATCH + len(guilty) * 2 * ceil(log2(BATCH))


def test_rows_that_are_refused_by_a_failing_server_are_found_too(tmp_path: Path) -> None:
    chance = random.Random(11)

    def fails(asked: Asked, ids: list[int]) -> Answer | None:
        if chance.random() < 0.3:
            return Answer(None, 503)
        return Answer({"error": "no"}, 422) if any(i % 1000 == 7 for i in ids) else None

    taking = Taking(fails)
    with http_server(taking.answer) as server:
        result = start(tmp_path, server.url, f"{PATIENT}, on_error: dead_letter")
    assert result.status == "finished", result.error
    assert taking.rows == [i for i in range(ROWS) if i % 1000 != 7]
    assert letters(tmp_path) == [i for i in range(ROWS) if i % 1000 == 7]


def test_too_many_refused_rows_end_the_search(tmp_path: Path) -> None:
    """A server that refuses all is not asked for each single row of the run."""
    taking = Taking(lambda asked, ids: Answer({"error": "no"}, 422))
    with http_server(taking.answer) as server:
        handling = f"{PATIENT}, on_error: dead_letter, max_errors: 20"
        result = start(tmp_path, server.url, handling)
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.code == "E0530"
    assert taking.requests <= 2 * 21 + 2 * ceil(log2(BATCH))
