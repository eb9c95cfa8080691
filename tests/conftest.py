"""Every test begins without what an earlier one left in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# The same examples at every run of the same code, and no opinion about a busy machine's speed.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


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
