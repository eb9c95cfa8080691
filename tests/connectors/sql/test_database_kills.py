"""A process killed between any two steps of the protocol loses and doubles nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from databases import execute, rows

pytestmark = pytest.mark.rotates(3)

POINTS = [
    "write.before_redo:5", "prepare.after_fsync:3", "prepare.before_apply:4", "commit.before_marker:2",
    "commit.before_commit:2", "commit.after_commit:2", "commit.before_commit:4", "commit.after_commit:4",
]  # fmt: skip
SCRIPT = Path(__file__).with_name("crashing_run.py")


def run_until(kind: str, folder: Path, crash_at: str | None) -> int:
    environment = {**os.environ, "DATAFLARE_CRASH_AT": f"{kind}.{crash_at}" if crash_at else ""}
    command = [sys.executable, str(SCRIPT), kind, str(folder)]
    return subprocess.run(command, env=environment, timeout=120, check=False).returncode


@pytest.mark.parametrize("point", POINTS)
def test_each_row_is_there_once_after_a_kill(kind, tmp_path, point):
    execute(kind, tmp_path / "data.db", "create table mirrored (id bigint primary key, v varchar)",
            "insert into mirrored values (1, 'gone'), (10, 'old')")  # fmt: skip
    assert run_until(kind, tmp_path, point) == -signal.SIGKILL
    assert run_until(kind, tmp_path, None) == 0
    wanted = [(epoch * 10 + i,) for epoch in range(1, 5) for i in range(3)]
    for table in ("added", "kept", "mirrored"):
        assert rows(kind, tmp_path / "data.db", f"select id from {table} order by id") == wanted
    found = rows(
        kind, tmp_path / "data.db", "select step, epoch from _dataflare_epochs order by step"
    )
    assert found == [("added", 4), ("kept", 4), ("mirrored", 4)]
