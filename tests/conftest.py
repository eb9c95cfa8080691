"""Every test begins without what an earlier one left in this process. Of the cases of long tests some run at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Runs that tests start keep their compiled modules, as a user's do: without them each takes a second more.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The same examples at every run of the same code, and no opinion about a busy machine's speed.
settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-cases", action="store_true", help="run each case of the tests that rotate"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of the cases of a test with the mark `rotates(n)`, one in n runs. The number of commits chooses, so in n commits
    that follow each other all of them run. A test without cases that has the mark itself, and not from its module, runs
    once in n commits."""
    if config.option.all_cases:
        return
    kept, left_out = [], []
    seen: dict[str, int] = defaultdict(int)
    commits = _commits()
    for item in items:
        mark = item.get_closest_marker("rotates")
        name, _, cases = item.nodeid.partition("[")
        if mark is None or (not cases and mark not in item.own_markers):
            kept.append(item)
            continue
        # Tests that run once in n commits are not all in the same one.
        turn = commits if cases else commits + zlib.crc32(name.encode())
        (kept if (seen[name] + turn) % mark.args[0] == 0 else left_out).append(item)
        seen[name] += 1
    # A name on the command line is a wish.
    if kept and left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def _commits() -> int:
    command = ["git", "rev-list", "--count", "HEAD"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return int(done.stdout) if done.returncode == 0 else 0


@pytest.fixture(autouse=True)
def nothing_left_over() -> Iterator[None]:
    """Secrets to hide, rows in memory, and the thread count that a command line has set."""
    yield
    os.environ.pop("POLARS_MAX_THREADS", None)
    redaction = sys.modules.get("dataflare.security.redact")
    if redaction is not None:
        redaction._process._values.clear()
        redaction._process._pattern = None
    memory = sys.modules.get("dataflare.connectors.memory")
    if memory is not None:
        memory.clear()
