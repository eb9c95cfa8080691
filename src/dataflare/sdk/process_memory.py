"""The memory of a process, as the system says it."""

from __future__ import annotations

import os
from typing import Literal

_PAGE = os.sysconf("SC_PAGE_SIZE")


def rss_bytes(pid: int | Literal["self"] = "self") -> int | None:
    """Its pages in memory; None where the system does not say, or the process is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return None
