"""What this process uses."""

from __future__ import annotations

import os
import threading
import time

from dataflare.observability.view import ProcessView

_PAGE = os.sysconf("SC_PAGE_SIZE")


def this_process() -> ProcessView:
    return ProcessView(
        os.getpid(),
        time.process_time(),
        rss_bytes(),
        threading.active_count(),
        _open_files(),
    )


def rss_bytes() -> int | None:
    """Memory of the process; None where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return None


def _open_files() -> int | None:
    try:
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        return None
