"""Many small jobs in one process: `python -m benchmarks.jobs [--jobs 1000] [--seconds 10] [--repeat 3]`.

Each job reads a row a second and has checkpoints and state of its own. Beside them runs one paced job of
10,000 rows/s, whose latency shows what the others cost it. Turns: the paced job alone (A), with the jobs (B),
and alone again (A), so that the difference between the A turns shows the noise.

`python -m benchmarks.jobs one N SECONDS OUT` is one turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SMALL = """\
name: job-{number}
settings: {{resources: {{memory: 16MB}}}}
sources:
  ticks: {{type: generate, config: {{columns: {{n: {{sequence: 0}}}}, rows: 1_000_000, rate: 1/s}}}}
transformations:
  odd: {{type: map, inputs: [ticks], config: {{derive: {{double: "n * 2"}}}}}}
destinations:
  out: {{type: started, inputs: [odd], config: {{}}}}
"""
BARS = {"start_s": 10.0, "rss_mb": 1024.0, "p99_ms": 30.0}


def register_started(begun: list[float], clock: Callable[[], float] = time.perf_counter) -> None:
    """Make `started` known: a destination that notes when its first rows came."""
    from pydantic import BaseModel

    from dataflare.sdk.destination import (
        Delivery,
        DestinationCapabilities,
        DestinationConnector,
        Writer,
        WriteStats,
    )
    from dataflare.sdk.registry import register

    class Started(Writer):
        takes_at_once = True
        first = True

        async def write_batch(self, batch: Any) -> WriteStats:
            if self.first:
                self.first = False
                begun.append(clock())
            return WriteStats(batch.num_rows)

    class NoConfig(BaseModel):
        pass

    class StartedDestination(DestinationConnector):
        type = "started"
        Config = NoConfig

        def capabilities(self) -> DestinationCapabilities:
            return DestinationCapabilities(Delivery.FLEETING, "keeps nothing")

        async def open(self, context: Any, restored: Any) -> Writer:
            return Started()

    register(StartedDestination)


async def turn(jobs: int, seconds: int, out: Path, scratch: Path) -> dict[str, float]:
    """One turn in this process. Raises if a job fails."""
    from benchmarks.latency import register_probe
    from benchmarks.workflows import paced
    from dataflare import RunOptions, arun
    from dataflare.workflow.load import load_text

    os.environ["LATENCY_OUT"] = str(out)
    begun: list[float] = []
    register_probe()
    register_started(begun)
    began = time.perf_counter()
    cpu_began = time.process_time()
    running = []
    for number in range(jobs):
        flow = load_text(SMALL.format(number=number), base=scratch)
        options = RunOptions(scratch / "home")
        running.append(asyncio.ensure_future(arun(flow, options)))
        await asyncio.sleep(0)
    while len(begun) < jobs:
        await asyncio.sleep(0.05)
        for each in running:
            if each.done():
                raise RuntimeError(f"a job ended: {each.result().error}")
    result = {
        "start_s": max(begun, default=began) - began,
        "start_cpu_s": time.process_time() - cpu_began,
        "threads_started": float(threading.active_count()),
    }
    cpu_began = time.process_time()
    flow = load_text(json.dumps(paced(10_000, 10_000 * seconds)), base=scratch)
    ended = await arun(flow, RunOptions(scratch / "home"))
    if ended.error is not None:
        raise ended.error
    result["cpu_share"] = (time.process_time() - cpu_began) / seconds
    result["threads"] = float(threading.active_count())
    result["files"] = float(len(os.listdir("/proc/self/fd"))) if os.path.isdir("/proc") else 0.0
    stopped = time.perf_counter()
    for each in running:
        each.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    result["stop_s"] = time.perf_counter() - stopped
    latency = json.loads(out.read_text())
    result |= {
        "p50_ms": latency["p50_ms"],
        "p99_ms": latency["p99_ms"],
        "max_ms": latency["max_ms"],
    }
    result["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result


def one(jobs: int, seconds: int, out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="jobs-") as scratch:
        result = asyncio.run(turn(jobs, seconds, out, Path(scratch)))
    out.write_text(json.dumps(result))


def measured(jobs: int, seconds: int) -> dict[str, float]:
    """One turn in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="jobs-") as folder:
        out = Path(folder) / "result.json"
        command = [
            sys.executable,
            "-m",
            "benchmarks.jobs",
            "one",
            str(jobs),
            str(seconds),
            str(out),
        ]
        subprocess.run(command, check=True)
        figures: dict[str, float] = json.loads(out.read_text())
        return figures


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["one"]:
        one(int(arguments[1]), int(arguments[2]), Path(arguments[3]))
        return 0
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args(arguments)
    turns: dict[str, list[dict[str, float]]] = {"alone": [], "beside": [], "again": []}
    for _ in range(given.repeat):
        for name, figures in turns.items():
            figures.append(measured(given.jobs if name == "beside" else 0, given.seconds))
            shown = {key: round(value, 2) for key, value in figures[-1].items()}
            print(f"{name}: {json.dumps(shown)}", flush=True)
    met = True
    for key in (
        "start_s",
        "start_cpu_s",
        "cpu_share",
        "threads",
        "files",
        "rss_mb",
        "p50_ms",
        "p99_ms",
        "stop_s",
    ):
        medians = {name: statistics.median(t[key] for t in each) for name, each in turns.items()}
        bar = BARS.get(key)
        verdict = ""
        if bar is not None:
            met = met and medians["beside"] <= bar
            verdict = f"bar {bar:g}: {'met' if medians['beside'] <= bar else 'MISSED'}"
        print(f"{key:12}", *(f"{name} {value:9.2f}" for name, value in medians.items()), verdict)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
