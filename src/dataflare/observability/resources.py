"""What this process uses."""

from __future__ import annotations

import os
import threading
import time

from dataflare.observability.view import ProcessView
from dataflare.sdk.process_memory import rss_bytes


def this_process() -> ProcessView:
    return ProcessView(
        os.getpid(),
        time.process_time(),
        rss_bytes(),
        threading.active_count(),
        _open_files(),
    )


def _open_files() -> int | None:
    try:
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        return None
