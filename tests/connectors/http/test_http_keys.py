"""Requests with keys: a server that takes a key once has each row once, wherever the run dies."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
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


class Choosy(Taking):
    """It takes each key once, and refuses requests that have one of the rows `bad`."""

    def __init__(self, *bad: int) -> None:
        super().__init__()
        self.bad = {*bad}

    def answer(self, asked: Asked) -> Answer:
        if self.bad & {row["n"] for row in asked.json()}:
            return Answer({"error": "no"}, 422)
        return super().answer(asked)

    @property
    def numbers(self) -> list[int]:
        return [row["n"] for row in self.rows]


GOOD = [n for n in range(20) if n not in (4, 19)]
LETTERS = {"on_error": "dead_letter", "dead_letter": {"path": "dead"}}


def letters(folder: Path) -> list[dict[str, Any]]:
    texts = [
        line
        for file in sorted((folder / "dead").glob("*.ndjson"))
        for line in file.read_text().split("\n")
    ]
    return [json.loads(text) for text in texts if text.strip()]


def test_a_refused_row_fails_the_run_until_rows_may_be_left_out(tmp_path: Path) -> None:
    server_ = Choosy(4, 19)
    with http_server(server_.answer) as server:
        failing = sending(ROWS, {"url": server.url, **CONFIG})
        for _ in range(2):
            ran = run(tmp_path, failing)
            assert (ran.status, ran.code) == (1, "E0510")
            assert "on_error: dead_letter" in ran.errors
        flow = sending(ROWS, {"url": server.url, **CONFIG}, error_handling=dict(LETTERS))
        ran = run(tmp_path, flow, "--accept-changes")
    assert ran.status == 0, ran.errors
    assert server_.numbers == GOOD
    assert [json.loads(letter["row"])["n"] for letter in letters(tmp_path)] == [4, 19]


@pytest.mark.parametrize("on_error", ["dead_letter", "skip"])
def test_rows_that_are_refused_at_the_commit_are_left_out(tmp_path: Path, on_error: str) -> None:
    server_ = Choosy(4, 19)
    with http_server(server_.answer) as server:
        handling = {**LETTERS, "on_error": on_error}
        if on_error == "skip":
            del handling["dead_letter"]
        flow = sending(ROWS, {"url": server.url, **CONFIG}, error_handling=handling)
        ran = run(tmp_path, flow)
        again = run(tmp_path, {**flow, "description": "nothing is left of the first run"})
    assert ran.status == 0, ran.errors
    counts = ran.result["steps"]["hook"]
    assert counts["errors"] == 2
    assert counts["dead_letters"] == (2 if on_error == "dead_letter" else 0)
    assert counts["rows_out"] == 18
    assert again.status == 0, again.errors
    assert server_.numbers == GOOD * 2
    told = [(each["code"], each["step"]) for each in letters(tmp_path)]
    assert told == ([("E0510", "hook")] * 4 if on_error == "dead_letter" else [])


def test_too_many_refused_rows_end_the_run(tmp_path: Path) -> None:
    server_ = Choosy(4, 7, 19)
    with http_server(server_.answer) as server:
        handling = {**LETTERS, "max_errors": 2}
        ran = run(tmp_path, sending(ROWS, {"url": server.url, **CONFIG}, error_handling=handling))
    assert (ran.status, ran.code) == (1, "E0530")


def test_rows_of_a_table_that_cannot_be_read_again_are_refused_once(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "in.db") as db:
        db.execute("CREATE TABLE n (n INTEGER)")
        db.executemany("INSERT INTO n VALUES (?)", [(n,) for n in range(20)])
    server_ = Choosy(4, 19)
    with http_server(server_.answer) as server:
        flow = sending(ROWS, {"url": server.url, **CONFIG}, error_handling=dict(LETTERS))
        flow["sources"] = {
            "rows": {"type": "sqlite", "config": {"path": "in.db", "query": "SELECT n FROM n"}}
        }
        ran = run(tmp_path, flow)
    assert ran.status == 0, ran.errors
    assert server_.numbers == GOOD
    assert len(letters(tmp_path)) == 2


@pytest.mark.parametrize(
    "point",
    ["http.commit.after_request:3", "engine.before_commit:1", "engine.after_commit:1",
     "engine.before_manifest:1", "engine.before_manifest:2", "engine.after_manifest:2",
     "engine.after_commit:3"],
)  # fmt: skip
def test_each_refused_row_is_one_letter_wherever_the_run_dies(tmp_path: Path, point: str) -> None:
    server_ = Choosy(4, 19)
    with http_server(server_.answer) as server:
        flow = sending(ROWS, {"url": server.url, **CONFIG}, error_handling=dict(LETTERS))
        (tmp_path / "flow.yaml").write_text(yaml.safe_dump(flow, sort_keys=False))
        died = subprocess.run(
            [sys.executable, "-m", "dataflare", "run", "flow.yaml", "--quiet"],
            cwd=tmp_path, env={**os.environ, "DATAFLARE_CRASH_AT": point}, timeout=60,
        )  # fmt: skip
        assert died.returncode == -signal.SIGKILL
        ran = run(tmp_path, flow)
    assert ran.status == 0, ran.errors
    assert sorted(server_.numbers) == GOOD
    assert [json.loads(letter["row"])["n"] for letter in letters(tmp_path)] == [4, 19]
