"""Requests with keys: a server that takes a key once has each row once, wherever the run dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from http_kit import run, sending
from servers.web import Answer, Asked, http_server

ROWS = [{"n": n} for n in range(20)]
CONFIG = {"batch_size": 3, "guarantee": "effectively_once"}


class Taking:
    """A server that takes each key once. away: how many requests it takes and answers with 503."""

    def __init__(self, away: int = 0) -> None:
        self.away = away
        self.by_key: dict[str, list[dict[str, Any]]] = {}
        self.requests = 0

    def answer(self, asked: Asked) -> Answer:
        self.requests += 1
        key = (
            asked.headers["X-Key"] if "X-Key" in asked.headers else asked.headers["Idempotency-Key"]
        )
        before = self.by_key.setdefault(key, asked.json())
        assert before == asked.json(), "one key has two bodies"
        if self.away:
            self.away -= 1
            return Answer(None, 503)
        return Answer(None, 204)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for rows in self.by_key.values() for row in rows]


def test_rows_arrive_at_the_checkpoint(tmp_path: Path) -> None:
    taking = Taking()
    with http_server(taking.answer) as server:
        ran = run(tmp_path, sending(ROWS, {"url": server.url, "key_header": "X-Key", **CONFIG}))
        assert all("X-Key" in asked.headers for asked in server.asked)
    assert ran.status == 0, ran.errors
    assert taking.rows == ROWS
    assert taking.requests == 7


def test_a_server_that_fails_for_a_moment_gets_the_same_key_again(tmp_path: Path) -> None:
    taking = Taking(away=2)
    with http_server(taking.answer) as server:
        handling = {
            "retry_policy": {"max_attempts": 5, "initial_backoff": "10ms", "max_backoff": "20ms"}
        }
        ran = run(tmp_path, sending(ROWS, {"url": server.url, **CONFIG}, error_handling=handling))
    assert ran.status == 0, ran.errors
    assert taking.rows == ROWS
    assert taking.requests == 9


@pytest.mark.parametrize(
    "point",
    ["http.commit.after_request:1", "http.commit.after_request:4", "engine.before_commit:1",
     "engine.after_commit:1", "engine.before_manifest:1"],
)  # fmt: skip
def test_each_row_arrives_once_wherever_the_run_dies(tmp_path: Path, point: str) -> None:
    taking = Taking()
    with http_server(taking.answer) as server:
        flow = sending(ROWS, {"url": server.url, **CONFIG})
        (tmp_path / "flow.yaml").write_text(yaml.safe_dump(flow, sort_keys=False))
        died = subprocess.run(
            [sys.executable, "-m", "dataflare", "run", "flow.yaml", "--quiet"],
            cwd=tmp_path, env={**os.environ, "DATAFLARE_CRASH_AT": point}, timeout=60,
        )  # fmt: skip
        assert died.returncode == -signal.SIGKILL
        ran = run(tmp_path, flow)
    assert ran.status == 0, ran.errors
    assert taking.rows == ROWS


def test_a_refused_row_fails_the_run(tmp_path: Path) -> None:
    with http_server(lambda asked: Answer({"error": "no"}, 422)) as server:
        ran = run(tmp_path, sending(ROWS, {"url": server.url, **CONFIG}))
    assert (ran.status, ran.code) == (1, "E0510")
