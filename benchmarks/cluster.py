"""A job on workers: `python -m benchmarks.cluster [rows keyed kill start] [--rows 16000000] [--turns 5]`.

    rows    filter and map from Parquet to Parquet: two workers of one processor, beside one process of two threads
    keyed   a window over a key: each row may have to go to the other worker
    start   from the start of a job on workers that are there until its first rows
    kill    a worker is killed, with a checkpoint each second: until rows go on

Each turn is a process of its own, which first does a small job. All take turns, one process twice: the A/A control. Workers
are those of the tests, which Ray would start. A bar that is missed makes the exit status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))

SHARES = {"rows": 0.75, "keyed": 0.6}
KILL_S, START_S = 8.0, 3.0
FILES = 16
STEPS = {
    "rows": """
  good: {type: filter, inputs: [events], config: {condition: "amount > 300"}}
  out: {type: map, inputs: [good], config: {derive: {twice: "amount * 2", word: "upper(name)"}}}""",
    "keyed": """
  out: {type: window, inputs: [events], config: {kind: tumbling, size: 1h, group_by: [user], measures: {n: "count(*)", total: "sum(amount)"}}}""",
}
FILE = """
name: CASE
settings:
  mode: MODE
  parallelism: 2
  resources: {threads: THREADS, memory: 2GiB}
  checkpoint: {interval: 1s}
sources:
  events: {type: file, config: {path: 'DATA/*.parquet'}, event_time: {column: at, max_future: null}}
transformations:STEPS
destinations:
  target: {type: file, inputs: [out], config: {path: out/, format: parquet}}
"""
STREAM = """
name: killed
settings: {parallelism: 2, checkpoint: {interval: 1s}, restart: {attempts: 5, delay: 0s}}
sources:
  events:
    type: generate
    config: {rows: 10000000, rate: 5000/s, seed: 1, columns: {user: {int: [0, 9999]}, amount: {int: [0, 999]}}}
transformations:
  sums: {type: aggregate, inputs: [events], config: {group_by: [user], measures: {n: "count(*)"}}}
destinations:
  target: {type: file, inputs: [events], config: {path: out/, format: parquet}}
  nowhere: {type: blackhole, inputs: [sums]}
"""


def write_data(folder: Path, rows: int) -> None:
    """Files of rows over 10,000 users and some days."""
    folder.mkdir(parents=True)
    for part in range(FILES):
        ids = pl.int_range(part * rows // FILES, (part + 1) * rows // FILES, eager=True)
        pl.DataFrame({"id": ids}).with_columns(
            user=pl.col("id").hash(1) % 10_000,
            amount=(pl.col("id").hash(2) % 1000).cast(pl.Int64),
            name=pl.concat_str(pl.lit("customer "), pl.col("id") % 1000),
            at=pl.datetime(2026, 1, 1, time_zone="UTC") + pl.duration(milliseconds=pl.col("id") * 20),
        ).write_parquet(folder / f"{part:02}.parquet")  # fmt: skip


def workers_of(count: int) -> Any:
    """Workers of one processor and one thread of Polars each."""
    from worker_processes import WorkerProcesses

    class Pinned(WorkerProcesses):
        def command(self, number: int) -> list[str]:
            pinned = ["taskset", "-c", str(number)] if shutil.which("taskset") else []
            return ["env", "POLARS_MAX_THREADS=1", *pinned, *super().command(number)]

    return Pinned(count)


def job(
    text: str, folder: Path, workers: Any, listener: Any = None, for_s: float | None = None
) -> float:
    """Run it. Gives seconds."""
    from dataflare.checkpoint.shared_store import SharedStore
    from dataflare.checkpoint.store import LocalStore
    from dataflare.jobs import RunOptions, run
    from dataflare.workflow.load import load_text

    folder.mkdir(parents=True)
    storage = LocalStore if workers is None else SharedStore
    options = RunOptions(
        home=folder / "home", workers=workers, storage=storage, listener=listener, for_s=for_s
    )
    began = time.perf_counter()
    result = run(load_text(text, base=folder), options)
    took = time.perf_counter() - began
    if result.error is not None:
        raise result.error
    return took


def turn(case: str, where: str, data: Path) -> dict[str, float]:
    """In a process of its own."""
    threads = 1 if where == "workers" else 2
    workers = workers_of(2) if where == "workers" else None
    mode = "streaming" if case == "keyed" else "batch"
    text = FILE.replace("CASE", case).replace("STEPS", STEPS[case]).replace("MODE", mode)
    text = text.replace("THREADS", str(threads))
    scratch = Path(tempfile.mkdtemp(prefix="cluster-"))
    try:
        job(text.replace("DATA", str(data / "few")), scratch / "few", workers)
        took = job(text.replace("DATA", str(data / "many")), scratch / "many", workers)
        rows = pl.scan_parquet(scratch / "many" / "out" / "*.parquet").select(pl.len()).collect()
    finally:
        if workers is not None:
            workers.close()
        shutil.rmtree(scratch)
    return {"seconds": took, "rows": rows.item()}


def start() -> dict[str, float]:
    """A second job on workers that are there, until its first rows are at the destination."""
    workers, scratch = workers_of(2), Path(tempfile.mkdtemp(prefix="cluster-"))
    first: list[float] = []

    def listen(progress: Any) -> None:
        if progress.steps["target"].rows_in and not first:
            first.append(progress.elapsed_s)

    try:
        job(STREAM, scratch / "one", workers, for_s=2.0)
        job(STREAM, scratch / "two", workers, listen, for_s=4.0)
    finally:
        workers.close()
        shutil.rmtree(scratch)
    return {"seconds": first[0]}


def kill() -> dict[str, float]:
    """From the kill of a worker until the destination has more rows than the checkpoint that the run went back to."""
    workers, scratch = workers_of(2), Path(tempfile.mkdtemp(prefix="cluster-"))
    state: dict[str, float] = {}

    def listen(progress: Any) -> None:
        rows, now = progress.steps["target"].rows_in or 0, time.perf_counter()
        if progress.checkpoints >= 3 and "killed" not in state:
            state.update(killed=now, starts=workers.starts)
            workers.processes[1].kill()
        elif "killed" in state and workers.starts > state["starts"] and "again" not in state:
            least = state["least"] = min(rows, state.get("least", rows))
            if rows > least:
                state["again"] = now

    try:
        job(STREAM, scratch / "one", workers, listen, for_s=20.0)
    finally:
        workers.close()
        shutil.rmtree(scratch)
    return {"seconds": state["again"] - state["killed"]}


def measured(*words: str) -> dict[str, float]:
    """A turn."""
    command = [sys.executable, "-m", "benchmarks.cluster", "turn", *words]
    environment = {**os.environ, "POLARS_MAX_THREADS": "1" if "workers" in words else "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def throughput(case: str, data: Path, rows: int, turns: int) -> bool:
    took: dict[str, list[float]] = {"one": [], "workers": [], "one again": []}
    written: set[float] = set()
    names = [*took]
    for number in range(turns):
        for name in names[number % 3 :] + names[: number % 3]:
            found = measured(case, name.partition(" ")[0], str(data))
            took[name].append(found["seconds"])
            written.add(found["rows"])
    if len(written) > 1:
        print(f"{case}: other numbers of rows were written: {written}")
        return False
    for name, seconds in took.items():
        speed = rows / statistics.median(seconds)
        print(f"{case:6} {name:10} {statistics.median(seconds):6.2f} s ({min(seconds):.2f}..{max(seconds):.2f})  {speed:12,.0f} rows/s")  # fmt: skip
    share, again = (
        statistics.median(a / b for a, b in zip(took["one"], took[name], strict=True))
        for name in ("workers", "one again")
    )
    met = share >= SHARES[case]
    print(
        f"{case:6} {'met' if met else 'MISSED'}: {share:.2f} of one process, at least {SHARES[case]}; A/A {again:.2f}"
    )
    return met


def seconds(case: str, turns: int, most: float) -> bool:
    took = [measured(case, "workers")["seconds"] for _ in range(turns)]
    met = statistics.median(took) <= most
    print(f"{case:6} {'met' if met else 'MISSED'}: {statistics.median(took):.2f} s ({min(took):.2f}..{max(took):.2f}), at most {most:g} s")  # fmt: skip
    return met


def main(words: list[str]) -> int:
    if words[:1] == ["turn"]:
        case, where, *more = words[1:]
        match case:
            case "kill":
                found = kill()
            case "start":
                found = start()
            case _:
                found = turn(case, where, Path(more[0]))
        print(json.dumps(found))
        return 0
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )  # fmt: skip
    parser.add_argument("cases", nargs="*", help="by default all")
    parser.add_argument("--rows", type=int, default=16_000_000)
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args(words)
    met = []
    with tempfile.TemporaryDirectory(prefix="cluster-data-") as name:
        data = Path(name)
        for case in given.cases or ("rows", "keyed", "start", "kill"):
            if case in SHARES and not (data / "few").exists():
                write_data(data / "few", 16_000)
                write_data(data / "many", given.rows)
            match case:
                case "kill":
                    met.append(seconds(case, given.turns, KILL_S))
                case "start":
                    met.append(seconds(case, given.turns, START_S))
                case _:
                    met.append(throughput(case, data, given.rows, given.turns))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
