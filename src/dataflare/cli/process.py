"""Settings of memory allocators and of garbage collection for a run, and the end of the process.

A run allocates and frees many buffers of several megabytes. By default each freed buffer is returned
to the kernel, and clearing the new pages takes a tenth of a run's processor time. If each thread kept
its own freed buffers, a run would need a tenth more memory, and again new pages.
"""

from __future__ import annotations

import gc
import os
import sys

from dataflare.cli import terminal

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 32 << 20  # the highest threshold that glibc accepts
_POLARS_ALLOCATOR = "_RJEM_MALLOC_CONF"
_KEPT_BY_POLARS = "dirty_decay_ms:5000,muzzy_decay_ms:-1,oversize_threshold:0,narenas:{arenas}"


PIPE_CLOSED = 141
"""The status that a shell reports for a program that was ended by SIGPIPE."""
may_end = False
"""Whether `end` ends the process: one command line is its only work, and no debugger watches it."""


def collect_seldom() -> None:
    """Collect garbage less often. The start creates 150,000 objects and no garbage; with the default
    thresholds the collections take 5 % of the start."""
    gc.set_threshold(200_000, 20, 20)


def keep_freed_memory() -> None:
    """Keep freed buffers for a few seconds, for the next batch. Call it before Polars is imported, because
    its allocator reads its settings then. Settings of the user are not changed."""
    arenas = max(1, (os.cpu_count() or 1) // 2)
    os.environ.setdefault(_POLARS_ALLOCATOR, _KEPT_BY_POLARS.format(arenas=arenas))
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 8 * _KEPT_BYTES)
        mallopt(_M_ARENA_MAX, 1)


def flush(status: int) -> int:
    """Flush the streams and return the status. A reader that is gone is not reported as an error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            terminal.point_stdout_nowhere()
            status = PIPE_CLOSED if stream is sys.stdout else status or PIPE_CLOSED
        except (OSError, ValueError):
            status = status or 1
    return status


def end(status: int) -> None:
    """End the process at once, if it may: the interpreter's shutdown takes 50 ms and is not needed."""
    if may_end:
        os._exit(status)
