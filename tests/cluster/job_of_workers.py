"""A job on workers, in a process that may be killed: FOLDER [adopt]. The workers die with it.

`CRASH_JOB` is where the job dies, as `DATAFLARE_CRASH_AT`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Read by this process alone.
if crash := os.environ.pop("CRASH_JOB", None):
    os.environ["DATAFLARE_CRASH_AT"] = crash

from worker_processes import WorkerProcesses

from dataflare.checkpoint.shared_store import SharedStore
from dataflare.jobs import RunOptions, run
from dataflare.workflow import load


class WithoutCrash(WorkerProcesses):
    def environment(self, number: int) -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if k != "DATAFLARE_CRASH_AT"}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    workers = WithoutCrash(2)
    try:
        options = RunOptions(
            home=folder / "home",
            workers=workers,
            storage=SharedStore,
            adopt="adopt" in sys.argv,
        )
        result = run(load(folder / "w.yaml"), options)
    finally:
        workers.close()
    if result.error is not None:
        print(result.error.code, result.error.message, *result.error.notes, file=sys.stderr)
    sys.exit(result.status != "finished")
