"""`dataflare connectors`."""

from __future__ import annotations


def connectors() -> int:
    """Not written yet."""
    return 1
