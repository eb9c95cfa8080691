"""Hypothesis draws the same examples each time, so that a failure can be repeated."""

from __future__ import annotations

from collections.abc import Iterator

import oracle
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "expr",
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="session", autouse=True)
def _close_the_judge() -> Iterator[None]:
    yield
    oracle.close()
