"""Worker processes end with the run that made them, however it ends, and hold no pipe of it."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from command_line import command, environment

WORKFLOW = """\
name: workers
version: "1.0"
settings: {restart: {attempts: 0}}
sources:
  numbers: {type: generate, config: {rows: 100, columns: {id: {sequence: 0}}}}
transformations:
  slow: {type: python, inputs: [numbers], config: {function: "work:FUNCTION", execution: process}}
destinations:
  out: {type: file, inputs: [slow], config: {path: out.csv}}
"""
FUNCTIONS = """\
import os
import time
from pathlib import Path


def note(frame):
    Path(f"worker-{os.getpid()}").touch()
    return frame


def fail(frame):
    note(frame)
    raise ValueError("no")


def hang(frame):
    note(frame)
    while True:
        time.sleep(60)
"""


def start(folder: Path, function: str) -> subprocess.Popen[str]:
    (folder / "work.py").write_text(FUNCTIONS)
    (folder / "w.yaml").write_text(WORKFLOW.replace("FUNCTION", function))
    return subprocess.Popen(
        command("run", "w.yaml", "--quiet"),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def workers(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("worker-")) for path in folder.glob("worker-*")]


def gone(numbers: list[int]) -> bool:
    """Whether these processes are no longer there; they get ten seconds."""
    alive = [psutil.Process(number) for number in numbers if psutil.pid_exists(number)]
    return not psutil.wait_procs(alive, timeout=10)[1]


@pytest.mark.parametrize(("function", "status"), [("note", 0), ("fail", 1)])
def test_workers_are_gone_when_the_run_has_ended(
    tmp_path: Path, function: str, status: int
) -> None:
    process = start(tmp_path, function)
    # Both pipes end only when no process holds them.
    _, errors = process.communicate(timeout=120)
    assert process.returncode == status, errors
    assert workers(tmp_path)
    assert gone(workers(tmp_path))


def test_workers_are_gone_when_the_run_was_killed(tmp_path: Path) -> None:
    process = start(tmp_path, "hang")
    parent = psutil.Process(process.pid)
    while not workers(tmp_path):
        assert process.poll() is None
        psutil.wait_procs([parent], timeout=0.05)
    children = [child.pid for child in parent.children(recursive=True)]
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert set(workers(tmp_path)) <= set(children)
    assert gone(children)
