"""A run that is stopped while it waits for a system, before any row is read."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataflare.cli import living
from dataflare.jobs import Progress, RunOptions, calls, run
from dataflare.jobs.door import door_of
from dataflare.observability.view import RunView
from dataflare.workflow.load import load_text

TEXT = """\
name: waits
settings:
  error_handling: {retry_policy: {max_attempts: 1000, initial_backoff: %s, max_backoff: 1h}}
sources:
  rows: {type: generate, config: {columns: {id: {sequence: 0}}, rows: 3}}
destinations:
  out:
    type: postgres
    inputs: [rows]
    config: {connection_string: "postgresql://u@127.0.0.1:%d/d", table: t, mode: append, connect_timeout: 2s}
"""


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def stopped_at(words: str, text: str, home: Path) -> tuple[str, list[str], list[RunView | None]]:
    """Stop a run by SIGTERM when it says this. How it ended, what it said, and what its door said then."""
    said: list[str] = []
    seen: list[RunView | None] = []

    def listen(progress: Progress) -> None:
        if progress.message:
            said.append(progress.message)
            if words in progress.message:
                seen.append(living.view_of(home / "waits", 0.01))
                os.kill(os.getpid(), signal.SIGTERM)

    options = RunOptions(home, listener=listen, door=lambda watch: door_of(watch, home))
    return run(load_text(text, base=home), options).status, said, seen


def test_a_stop_ends_a_run_that_waits_for_a_silent_system(
    tmp_path: Path, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_SILENT_S", 0.0)
    text = TEXT % ("1h", silent_port)
    status, said, seen = stopped_at("the run waits for it", text, tmp_path)
    assert status == "interrupted"
    assert said[0].startswith("step 'out': no answer for")
    assert said[-1] == "stopping before rows are read"
    assert seen[0] is not None  # the door is open: it cannot answer from inside the listener
    assert living.view_of(tmp_path / "waits") is None


def test_a_stop_cuts_the_wait_before_another_try(tmp_path: Path, closed_port: int) -> None:
    text = TEXT % ("1h", closed_port)
    status, said, _ = stopped_at("trying again in", text, tmp_path)
    assert status == "interrupted"
    assert said[-1] == "stopping before rows are read"
