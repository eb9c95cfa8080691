"""`dataflare schema`."""

from __future__ import annotations


def schema() -> int:
    """Not written yet."""
    return 1
