"""Run a `python` step's function in worker processes: for code that holds the GIL, crashes or hangs.

Frames travel as Arrow IPC. A process that is lost costs an attempt of its batch, and other batches go on.
"""

from __future__ import annotations

import io
import os
from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from dataflare.errors import ConfigError, DataError, DataFlareError
from dataflare.sdk import user_code
from dataflare.sdk.runtime import current
from dataflare.sdk.user_code import LOST_WORKER
from dataflare.sdk.worker_pool import WorkerLost, WorkerPool

if TYPE_CHECKING:
    from dataflare.operators.python import PythonCall

ATTEMPTS_MAX = 3
_POOL = "processes of python steps"


def call_in_process(call: PythonCall, frame: pl.DataFrame) -> pl.DataFrame:
    """What `call.call(frame)` gives, worked out in another process. Raises DataError (E0522) for a batch with which
    the process was lost each time, and ConfigError (E0408) where no process came as far as the call."""
    buffer = io.BytesIO()
    frame.select(call.input.names).write_ipc(buffer)
    rows = buffer.getvalue()
    attempts = {True: 0, False: 0}  # by whether the call had begun
    while True:
        answer = _pool().submit(
            _work,
            call,
            rows,
            prepare=partial(_load, call),
            timeout_s=call.timeout_s,
            memory_max=call.memory_max,
        )
        try:
            return pl.read_ipc(io.BytesIO(answer.result()))
        except WorkerLost as error:
            lost = error
        attempts[lost.is_ready] += 1
        if attempts[lost.is_ready] == ATTEMPTS_MAX:
            raise _lost(call, lost) from lost


def _lost(call: PythonCall, lost: WorkerLost) -> DataFlareError:
    """The error for what took its process each time."""
    if not lost.is_ready:
        return ConfigError(
            f"step '{call.step}': the worker process {lost.message} while it imported {call.function}, before any row, "
            f"{ATTEMPTS_MAX} times",
            code="E0408",
            step=call.step,
            help=f"see what {call.function.partition(':')[0]} does when it is imported (memory, exit, native code, "
            "waiting), and how much memory the process may have",
        )
    return DataError(
        f"step '{call.step}': the worker process {lost.message} while it ran {call.function}, "
        f"{ATTEMPTS_MAX} times with the same rows",
        code=LOST_WORKER,
        step=call.step,
        help="see what the function does to the process (memory, exit, native code), or leave such rows out with "
        "error_handling: {on_error: dead_letter}",
    )


def _load(call: PythonCall) -> None:
    """Import what the call needs: the rows come after it, and their time limit begins."""
    user_code.load(call.function, call.base)


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
