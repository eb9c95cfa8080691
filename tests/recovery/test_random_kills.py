"""SIGKILL at random moments, many times, from one seed; each row is there once."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from harness import Sandbox, same

KILLS = 50
SEED = 20_131


@pytest.mark.rotates(3)
def test_fifty_kills_at_random_moments_lose_and_double_nothing(tmp_path: Path) -> None:
    undisturbed = Sandbox(tmp_path / "undisturbed", rows=60_000, rate="")
    assert undisturbed.run() == 0
    disturbed = Sandbox(tmp_path / "disturbed", rows=60_000)
    kills = kill_at_random(disturbed, random.Random(SEED), KILLS)
    assert kills == KILLS
    assert disturbed.run("--set", "sources.orders.config.rate=1000000/s") == 0
    same(disturbed.contents(), undisturbed.contents())
    assert disturbed.leftovers() == []


def kill_at_random(sandbox: Sandbox, rng: random.Random, kills: int) -> int:
    """Run at a pace that lets every run be killed before its end, each time with another number of
    subtasks; returns how many were killed."""
    died = 0
    for _ in range(kills):
        parallelism = f"settings.parallelism={rng.randint(1, 3)}"
        process = sandbox.start("--set", "sources.orders.config.rate=1000/s", "--set", parallelism)
        try:
            process.communicate(timeout=rng.uniform(0.35, 1.3))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            died += 1
        else:
            raise AssertionError("the run ended before it was killed")
    return died
