"""Run a `python` step's function in worker processes: for code that holds the GIL, crashes or hangs.

Frames travel as Arrow IPC. A process that is lost costs an attempt of its batch, and other batches go on.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import polars as pl

from dataflare.errors import DataError
from dataflare.sdk.runtime import current
from dataflare.sdk.user_code import LOST_WORKER
from dataflare.sdk.worker_pool import WorkerLost, WorkerPool

if TYPE_CHECKING:
    from dataflare.operators.python import PythonCall

ATTEMPTS_MAX = 3
_POOL = "processes of python steps"


def call_in_process(call: PythonCall, frame: pl.DataFrame) -> pl.DataFrame:
    """What `call.call(frame)` gives, worked out in another process. Raises DataError (E0522) for a batch with which
    the process was lost each time."""
    buffer = io.BytesIO()
    frame.select(call.input.names).write_ipc(buffer)
    rows, lost = buffer.getvalue(), None
    for _ in range(ATTEMPTS_MAX):
        answer = _pool().submit(
            _work, call, rows, timeout_s=call.timeout_s, memory_max=call.memory_max
        )
        try:
            return pl.read_ipc(io.BytesIO(answer.result()))
        except WorkerLost as error:
            lost = error
    assert lost is not None
    raise DataError(
        f"step '{call.step}': the worker process {lost.message} while it ran {call.function}, "
        f"{ATTEMPTS_MAX} times with the same rows",
        code=LOST_WORKER,
        step=call.step,
        help="see what the function does to the process (memory, exit, native code), or leave such rows out with "
        "error_handling: {on_error: dead_letter}",
    ) from lost


def _work(call: PythonCall, rows: bytes) -> bytes:
    result = call.call(pl.read_ipc(io.BytesIO(rows)))
    buffer = io.BytesIO()
    result.write_ipc(buffer)
    return buffer.getvalue()


def _pool() -> WorkerPool:
    """The worker processes of the run."""
    return current().one(_POOL, _made, lambda pool: pool.close(wait=False))


def _made() -> WorkerPool:
    return WorkerPool(os.cpu_count() or 1)
