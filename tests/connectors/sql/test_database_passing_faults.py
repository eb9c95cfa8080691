"""A database file that another program locks for a moment costs the calls that it failed, never the run."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import rows
from servers import faults
from servers.faults import MODES, Moments, not_restarted, wanted

pytestmark = pytest.mark.rotates(2)

HOLD = "import duckdb, sys; db = duckdb.connect(sys.argv[1]); print('held', flush=True); input()"


class Holder:
    """Another program that locks the file."""

    def __init__(self, kind: str, path: Path) -> None:
        self._kind, self._path = kind, path
        self._process: subprocess.Popen[str] | None = None
        self._db: sqlite3.Connection | None = None

    def hold(self) -> bool:
        """Whether the lock was free."""
        if self._kind == "sqlite":
            self._db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
            self._db.execute("begin immediate")
            return True
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(self._path)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        return self._process.stdout.readline() == "held\n"

    def read(self) -> bool:
        """SQLite: a reader that is in the middle of its rows, so that no writer can commit."""
        self._db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        self._db.execute("begin")
        self._db.execute("select * from t").fetchone()
        return True

    def let_go(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._process is not None:
            self._process.communicate("\n")
            self._process = None

    def told(self, message: str) -> None:
        if "trying again" in message:
            assert "is locked" in message
            self.let_go()


@pytest.fixture
def moments(kind: str, monkeypatch: pytest.MonkeyPatch) -> Moments:
    return Moments(kind, monkeypatch)


@pytest.fixture
def holder(kind: str, tmp_path: Path) -> Iterator[Holder]:
    made = Holder(kind, tmp_path / "data.db")
    yield made
    made.let_go()


CONFIG = "path: data.db, busy_timeout: 10ms"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_a_file_that_another_program_writes(kind, moments, holder, tmp_path, mode, on_error):
    place = "prepare.after_fsync" if on_error == "fail" else "write.before_redo"
    moments.at(place, 2, holder.hold)
    handling = f"{faults.PATIENT}, on_error: {on_error}"
    result = faults.start(tmp_path, kind, mode, CONFIG, handling=handling, listener=holder.told)
    assert len(moments.done) == 1
    not_restarted(result)
    found = rows(kind, tmp_path / "data.db", "select id, customer, amount from t order by id")
    assert found == wanted(mode)


@pytest.mark.parametrize("mode", MODES[:3])
@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_commit_that_waits_for_a_reader(kind, moments, holder, tmp_path, mode):
    moments.at("commit.before_commit", 2, holder.read)
    result = faults.start(tmp_path, kind, mode, CONFIG, listener=holder.told)
    assert len(moments.done) == 1
    not_restarted(result)
    found = rows(kind, tmp_path / "data.db", "select id, customer, amount from t order by id")
    assert found == wanted(mode)


def test_a_file_that_stays_locked_ends_the_run(kind, moments, holder, tmp_path):
    moments.at("prepare.after_fsync", 2, holder.hold)
    handling = "retry_policy: {max_attempts: 3, initial_backoff: 1ms}"
    result = faults.start(tmp_path, kind, "append", CONFIG, handling=handling)
    assert (result.status, result.exit_status) == ("failed", 1)
    assert result.error is not None
    assert (result.error.code, result.error.step) == ("E0605", "out")
    assert result.error.message.endswith("(after 3 attempts)")
