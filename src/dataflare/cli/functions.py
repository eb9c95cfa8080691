"""`dataflare functions`."""

from __future__ import annotations


def functions() -> int:
    """Not written yet."""
    return 1
