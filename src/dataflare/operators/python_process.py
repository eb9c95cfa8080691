"""Run a `python` step's function in worker processes, for code that would hold the GIL.

Frames travel as Arrow IPC. Processes are spawned, never forked, and end with their parent.
"""

from __future__ import annotations

import atexit
import io
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

import polars as pl

from dataflare.errors import SystemError_
from dataflare.sdk.runtime import current

if TYPE_CHECKING:
    from dataflare.operators.python import PythonCall

_POOL = "processes of python steps"


def call_in_process(call: PythonCall, frame: pl.DataFrame) -> pl.DataFrame:
    """What `call.call(frame)` gives, worked out in another process."""
    buffer = io.BytesIO()
    frame.select(call.input.names).write_ipc(buffer)
    try:
        answer = _pool().submit(_work, call, buffer.getvalue()).result()
    except BrokenProcessPool as error:
        current().forget(_POOL)
        raise SystemError_(
            f"step '{call.step}': the worker process died while it ran {call.function}",
            code="E0620",
            step=call.step,
            help="see what the function does to the process: memory, exit, native code",
        ) from error
    return pl.read_ipc(io.BytesIO(answer))


def _work(call: PythonCall, rows: bytes) -> bytes:
    result = call.call(pl.read_ipc(io.BytesIO(rows)))
    buffer = io.BytesIO()
    result.write_ipc(buffer)
    return buffer.getvalue()


def _pool() -> ProcessPoolExecutor:
    """The worker processes of the run: one that dies takes nothing from other runs."""
    return current().one(_POOL, _made, _shut)


def _made() -> ProcessPoolExecutor:
    pool = ProcessPoolExecutor(
        max_workers=os.cpu_count() or 1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_end_with_parent,
    )
    atexit.register(pool.shutdown, wait=False, cancel_futures=True)
    return pool


def _shut(pool: ProcessPoolExecutor) -> None:
    atexit.unregister(pool.shutdown)
    pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """Let this worker end when its parent ends, however that happens: a worker that waits for work
    does not notice, and would hold the standard output that it has from its parent."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="dataflare-parent", daemon=True).start()
