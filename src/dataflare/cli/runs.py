"""`dataflare runs`."""

from __future__ import annotations


def runs() -> int:
    """Not written yet."""
    return 1
