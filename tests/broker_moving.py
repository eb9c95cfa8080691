"""Runs that read a broker: one without end, which a test stops, and one that is killed until it has come to its end."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

_WAIT_S = 60.0


class Endless:
    """A run in a process of its own, until the end of the `with`. It writes column `n` into the table t of `out.db`.
    place: has `folder`, and fills in a workflow."""

    def __init__(self, place: Any, workflow: str) -> None:
        self.folder: Path = place.folder
        self._file = place.folder / "endless.yaml"
        self._file.write_text(place.filled(workflow))
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dataflare", "run", "--quiet", str(self._file)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL."""
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        process.communicate()

    def stop(self) -> None:
        """As Ctrl-C does: it takes a checkpoint first."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=_WAIT_S)
        assert process.returncode == 130, said

    def numbers(self) -> list[int]:
        """What is written, sorted."""
        path = self.folder / "out.db"
        if not path.exists():
            return []
        connection = sqlite3.connect(path, timeout=10)
        try:
            return [n for (n,) in connection.execute("select n from t order by n")]
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise
        finally:
            connection.close()

    def wait_rows(self, rows: int) -> None:
        """Until so many rows are written."""
        end = time.monotonic() + _WAIT_S
        while (there := len(self.numbers())) < rows:
            self._check(f"{there} of {rows} rows")
            assert time.monotonic() < end, f"{there} of {rows} rows after {_WAIT_S:g} s"
            time.sleep(0.02)

    def _check(self, so_far: str) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            said, _ = self._process.communicate()
            raise AssertionError(f"the run ended with {so_far}: {said}")


class Moving:
    """A run with an end, in processes that are killed."""

    def __init__(self, place: Any, workflow: str) -> None:
        self._file = place.folder / "moving.yaml"
        self._file.write_text(place.filled(workflow))

    def start(self, crash_at: str = "") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "dataflare", "run", "--quiet", str(self._file)],
            env={**os.environ, "DATAFLARE_CRASH_AT": crash_at},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def die(self, crash_at: str) -> bool:
        """Run until it dies at this place. False: it came to its end before."""
        process = self.start(crash_at)
        said, _ = process.communicate(timeout=_WAIT_S)
        if process.returncode == 0:
            return False
        assert process.returncode == -signal.SIGKILL, said
        return True

    def kill_after(self, seconds: float) -> bool:
        """Kill it after a while. False: it came to its end before."""
        process = self.start()
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return True
        assert process.returncode == 0, said
        return False

    def finish(self) -> None:
        process = self.start()
        said, _ = process.communicate(timeout=_WAIT_S * 2)
        assert process.returncode == 0, said


def random_kills(moving: Moving, rng: random.Random, kills: int) -> int:
    """Kill runs at random moments. Returns how many were alive then."""
    return sum(moving.kill_after(rng.uniform(0.6, 2.5)) for _ in range(kills))
