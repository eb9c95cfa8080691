"""Two runs of one workflow: the second is told about the first, and death frees the lock."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from checkpoint_samples import child

from dataflare.checkpoint.lock import RunLock, lock_state
from dataflare.errors import RunError

HOLD = """
import sys
from pathlib import Path
from dataflare.checkpoint.lock import RunLock

lock = RunLock(Path(sys.argv[1]), sys.argv[2], "2024-01-31T12:00:00.000Z")
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def lock(folder: Path, run_id: str = "01SECOND") -> RunLock:
    return RunLock(folder, run_id, "2024-01-31T13:00:00.000Z")


def test_another_process_is_refused_and_told_who_runs(tmp_path):
    folder = tmp_path / "orders"
    process = child(HOLD, folder, "01FIRST")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunError) as raised:
            lock(folder).acquire()
        assert raised.value.code == "E0801"
        assert raised.value.exit_status == 1
        assert raised.value.message == (
            "workflow 'orders' is already running: run 01FIRST, "
            f"started 2024-01-31T12:00:00.000Z, process {process.pid}"
        )
        state = lock_state(folder)
        assert state.held
        assert state.holder is not None
        assert state.holder.run_id == "01FIRST"
    finally:
        process.kill()
        process.wait()
    # Killed, it let go, although the file still names it.
    assert not lock_state(folder).held
    with lock(folder):
        assert lock_state(folder).held


def test_the_same_process_is_refused_too(tmp_path):
    with lock(tmp_path, "01FIRST"), pytest.raises(RunError, match="01FIRST"):
        lock(tmp_path).acquire()
    with lock(tmp_path):
        pass


def test_the_file_alone_means_nothing(tmp_path):
    holder = {"run_id": "01DEAD", "pid": os.getpid(), "host": "here", "started": "now"}
    (tmp_path / "lock").write_text(json.dumps(holder))
    assert not lock_state(tmp_path).held
    with lock(tmp_path):
        holder_now = lock_state(tmp_path).holder
        assert holder_now is not None
        assert holder_now.run_id == "01SECOND"


def test_a_held_lock_that_says_nothing_yet_still_refuses(tmp_path):
    with lock(tmp_path):
        (tmp_path / "lock").write_text("")
        assert lock_state(tmp_path).held
        with pytest.raises(RunError, match=f"'{tmp_path.name}' is already running$"):
            lock(tmp_path).acquire()


def test_a_run_elsewhere_is_told_with_its_machine(tmp_path):
    first = lock(tmp_path)
    with first:
        holder = {"run_id": "01FAR", "pid": 7, "host": "far.example", "started": "now"}
        (tmp_path / "lock").write_text(json.dumps(holder))
        with pytest.raises(RunError, match=r"process 7 on far\.example"):
            lock(tmp_path).acquire()


def test_looking_never_makes_a_run_fail(tmp_path):
    with lock(tmp_path):
        pass
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            lock_state(tmp_path)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(200):
            with lock(tmp_path):
                pass
    finally:
        done.set()
        watcher.join()


def test_releasing_twice_does_nothing(tmp_path):
    held = lock(tmp_path)
    held.acquire()
    held.release()
    held.release()
    assert not lock_state(tmp_path).held


def test_looking_where_nothing_ran_makes_nothing(tmp_path):
    assert not lock_state(tmp_path / "orders").held
    assert list(tmp_path.iterdir()) == []
