"""How this process treats memory while batches flow through it.

Buffers of megabytes come and go at the same sizes. By default each one is handed back to the kernel
and asked for again, and clearing the fresh pages takes a tenth of a run's processor time. Kept by
each thread for itself they would add up instead: a tenth more memory, and again fresh pages.
"""

from __future__ import annotations

import gc
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 32 << 20  # the most that glibc takes for a threshold
_POLARS_ALLOCATOR = "_RJEM_MALLOC_CONF"
_KEPT_BY_POLARS = "dirty_decay_ms:5000,muzzy_decay_ms:-1,oversize_threshold:0,narenas:{arenas}"


def collect_seldom() -> None:
    """Starting makes 150,000 objects and no garbage; looking for some takes a twentieth of the start."""
    gc.set_threshold(200_000, 20, 20)


def keep_freed_memory() -> None:
    """Keep freed buffers for a few seconds, for the next batch. Before Polars is imported, whose
    allocator reads its settings then; what the user has set is left as it is."""
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
