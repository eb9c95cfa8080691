"""A workflow that mirrors a table while random writers change it, run as a process that is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from random_writers import Writers


class Shop:
    """The workflow in a folder of its own. workflow: its text, with ${DB} for the connection string."""

    def __init__(self, dsn: str, folder: Path, workflow: str) -> None:
        self._dsn, self._folder = dsn, folder
        (folder / "shop.yaml").write_text(workflow)

    def start(self, mode: str, crash_at: str | None = None) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
        environment["DB"] = self._dsn
        if crash_at is not None:
            environment["DATAFLARE_CRASH_AT"] = crash_at
        return subprocess.Popen(
            [sys.executable, "-m", "dataflare", "run", "shop.yaml", "--quiet", "--accept-changes",
             "--set", f"settings.mode={mode}"],
            cwd=self._folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def killed(self, rng: random.Random, crash_at: str | None) -> None:
        """Run without an end, and die at a named place or at some moment."""
        process = self.start("streaming", crash_at)
        try:
            _, errors = process.communicate(timeout=rng.uniform(1.0, 4.0))
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors

    def settle(self) -> None:
        """Run to the end of what is there."""
        process = self.start("batch")
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def mirror(
    shop: Shop, writers: Writers, rng: random.Random, crash_points: Sequence[str], kills: int,
    *, first_alone: bool = False, alter: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Write and kill, then let the run come to its end. first_alone: whether the first run is killed before the
    writers begin. alter: changes the table between two kills."""
    for _ in range(100):
        writers.step(may_stay_open=False)
    done, failed = threading.Event(), []

    def write() -> None:
        try:
            while not done.wait(0.002):
                writers.step()
            writers.end()
        except Exception as error:
            failed.append(error)

    points = rng.sample(crash_points, min(kills, len(crash_points)))
    if first_alone:
        shop.killed(rng, points.pop() if points else None)
    writing = threading.Thread(target=write)
    writing.start()
    try:
        for number in range(kills - first_alone):
            if number == kills // 2:
                alter()
            shop.killed(rng, points.pop() if points and rng.random() < 0.6 else None)
    finally:
        done.set()
        writing.join()
        writers.close()
    assert failed == []
    shop.settle()
