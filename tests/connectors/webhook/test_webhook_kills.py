"""A webhook whose process is killed: what it acknowledged is written once, in order."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from webhook_kit import Moving, Sender

POINTS = (
    "push.before_write:3",
    "push.before_fsync:3",
    "push.after_fsync:4",
    "engine.before_manifest:2",
    "engine.before_commit:2",
    "engine.after_commit:2",
)


def check(moving: Moving, sender: Sender) -> None:
    """Each row that was acknowledged is there. One whose sender was not told may have come twice: the log has both,
    at different offsets, and none of its messages is there twice."""
    rows = moving.rows()
    offsets = [offset for _, _, offset in rows]
    assert offsets == list(range(len(offsets)))
    numbers = [n for n, _, _ in rows]
    assert {*numbers} >= set(range(sender.taken * sender.rows)), "acknowledged rows are lost"
    first_seen = list(dict.fromkeys(numbers))
    assert first_seen == sorted(first_seen)
    assert all(text == f"row {n}" for n, text, _ in rows)


def test_nothing_that_was_acknowledged_is_lost_where_it_dies(tmp_path: Path) -> None:
    moving = Moving(tmp_path)
    sender = Sender(moving.port, requests=100_000)
    sender.start()
    for point in POINTS:
        moving.dies(point)
    sender.enough.set()
    sender.join()
    with moving.running():
        while len({n for n, _, _ in moving.rows()}) < sender.taken * sender.rows:
            sender.enough.wait(0.01)
    check(moving, sender)
    assert sender.taken > len(POINTS)


@pytest.mark.soak
def test_random_kills(tmp_path: Path) -> None:
    moving, rng = Moving(tmp_path), random.Random(20)
    sender = Sender(moving.port, requests=1_000_000)
    sender.start()
    for _ in range(40):
        before, process = sender.taken, moving.start()
        while sender.taken == before:
            sender.enough.wait(0.01)
        sender.enough.wait(rng.uniform(0, 2))
        process.kill()
        process.communicate()
    sender.enough.set()
    sender.join()
    with moving.running():
        while len({n for n, _, _ in moving.rows()}) < sender.taken * sender.rows:
            sender.enough.wait(0.01)
    check(moving, sender)
