"""Many tasks in one process: `python -m benchmarks.tasks [--steps 100] [--parallelism 100] [--rows 10]`.

A workflow whose steps each exchange their rows by another key than the step before, so that no two steps are one task, and
each task of a step has a channel to each task of the next. It says how much CPU time and memory it takes until
the first row has gone through all steps, and the time until the run has ended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

BARS = {"start_cpu_s": 10.0, "rss_mb": 1024.0}


def workflow(steps: int, parallelism: int, rows: int) -> dict[str, Any]:
    names = ["rows", *(f"step{n}" for n in range(steps - 2))]
    return {
        "name": "tasks",
        "settings": {"parallelism": parallelism, "checkpoint": {"interval": "1h"}},
        "sources": {
            "rows": {
                "type": "generate",
                "config": {
                    "rows": rows,
                    "columns": {"id": {"sequence": 0}, "group": {"int": [0, 9]}},
                },
            }
        },
        "transformations": {
            name: {
                "type": "deduplicate",
                "inputs": [before],
                "config": {"key": ["id"] if number % 2 else ["id", "group"]},
            }
            for number, (before, name) in enumerate(pairwise(names))
        },
        "destinations": {"out": {"type": "started", "inputs": [names[-1]]}},
    }


async def measured(steps: int, parallelism: int, rows: int, scratch: Path) -> dict[str, float]:
    from benchmarks.jobs import register_started
    from dataflare import RunOptions, arun
    from dataflare.workflow.load import load_text

    begun: list[float] = []
    register_started(begun, clock=time.process_time)
    flow = load_text(json.dumps(workflow(steps, parallelism, rows)), base=scratch)
    before, started = time.process_time(), time.perf_counter()
    result = await arun(flow, RunOptions(scratch / "home"))
    if result.error is not None:
        raise result.error
    return {
        "tasks": float(steps * parallelism),
        "start_cpu_s": min(begun) - before,
        "whole_cpu_s": time.process_time() - before,
        "whole_s": time.perf_counter() - started,
        "rows_out": float(result.steps["out"]["rows_in"]),
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--parallelism", type=int, default=100)
    parser.add_argument("--rows", type=int, default=10)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tasks-") as scratch:
        figures = asyncio.run(measured(asked.steps, asked.parallelism, asked.rows, Path(scratch)))
    met = True
    for name, value in figures.items():
        bar = BARS.get(name)
        verdict = "" if bar is None else f"bar {bar:g}: {'met' if value <= bar else 'MISSED'}"
        met = met and (bar is None or value <= bar)
        print(f"{name:12} {value:9.2f} {verdict}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
