"""Hypothesis draws the same examples each time; `--hypothesis-seed` and `-p soak` look further."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "expr",
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile(
    "expr-soak",
    deadline=None,
    max_examples=3000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
