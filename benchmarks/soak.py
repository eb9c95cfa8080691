"""A run that goes on for long: `python -m benchmarks.soak [--minutes 30] [--rate 50000] [--seed 1]`.

Rows come at a steady rate; one in fifty goes into Parquet files, and windows of 10 s by key go into PostgreSQL, through a
proxy that delays, cuts, resets and refuses connections at moments from the seed. Each ten seconds memory, open files and the
latency of the interval are noted. At the end each row must be counted in one window, and memory, open files and latency of the
last third must be at most a tenth above those of the second third. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from benchmarks.changes import psql
from benchmarks.observing import free_port
from benchmarks.streams.case import DATAFLARE, ROOT

SAMPLE_S = 10.0
MORE = 1.1
"""What is flat may be a tenth more in the last third."""
_BUCKET = re.compile(r'^dataflare_latency_seconds_bucket\{.*le="([^"]+)".*\} (\S+)$')


class Sample(Struct):
    """rss_mb: of the process. files: open ones. p99_ms: of the rows since the sample before."""

    at_s: float
    rss_mb: float
    files: int
    p99_ms: float


def definition(dsn: str, out: Path, rows: int, rate: int) -> dict[str, Any]:
    columns = {
        "id": {"sequence": 0},
        "user": {"int": [1, 2000]},
        "at": {"time": {"start": "now"}},
    }
    return {
        "name": "soak",
        "settings": {
            "mode": "streaming",
            "checkpoint": {"interval": "5s"},
            "restart": {"attempts": 1000},
            "error_handling": {
                "retry_policy": {
                    "max_attempts": 1000,
                    "initial_backoff": "100ms",
                    "max_backoff": "2s",
                }
            },
        },
        "sources": {
            "events": {
                "type": "generate",
                "config": {"columns": columns, "rows": rows, "rate": f"{rate}/s"},
                "event_time": {"column": "at", "out_of_orderness": "1s"},
            }
        },
        "transformations": {
            "few": {"type": "filter", "inputs": ["events"], "config": {"condition": "id % 50 = 0"}},
            "counts": {
                "type": "window",
                "inputs": ["events"],
                "config": {
                    "kind": "tumbling",
                    "size": "10s",
                    "group_by": ["user"],
                    "measures": {"rows": "count(*)", "last": "max(id)"},
                },
            },
        },
        "destinations": {
            "files": {
                "type": "file",
                "inputs": ["few"],
                "config": {"path": str(out), "format": "parquet"},
            },
            "table": {
                "type": "postgres",
                "inputs": ["counts"],
                "config": {"connection_string": dsn, "table": "counts", "mode": "append"},
            },
        },
    }


class Latencies:
    """The distribution that the endpoint tells grows; what it grew by is that of the interval."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._before: dict[float, float] = {}

    def p99_ms(self) -> float:
        with urllib.request.urlopen(self._url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found: dict[float, float] = {}
        for line in lines:
            if match := _BUCKET.match(line):
                bound = float(match[1].replace("+Inf", "inf"))
                found[bound] = found.get(bound, 0.0) + float(match[2])
        grown = {bound: count - self._before.get(bound, 0.0) for bound, count in found.items()}
        self._before = found
        total = max(grown.values(), default=0.0)
        return 1000 * min((b for b, n in grown.items() if total and n >= 0.99 * total), default=0.0)


def disturb(proxy: Any, chance: random.Random) -> None:
    """One fault, or none."""
    from dataflare.testing import NO_FAULTS, Faults

    kind = chance.randrange(5)
    proxy.refuses = kind == 0
    proxy.faults = Faults(delay_s=0.05, jitter_s=0.1) if kind == 1 else NO_FAULTS
    if kind == 2:
        proxy.faults = Faults(cut_after=(1_000, 200_000), reset=chance.random() < 0.5)
    if kind == 3:
        proxy.reset()


def sampled(process: subprocess.Popen[bytes], latencies: Latencies, began: float) -> Sample:
    place = Path(f"/proc/{process.pid}")
    pages = int((place / "statm").read_text().split()[1])
    files = len(os.listdir(place / "fd"))
    rss_mb = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return Sample(time.monotonic() - began, rss_mb, files, latencies.p99_ms())


def thirds(values: list[float]) -> tuple[float, float]:
    """The medians of the second and of the last third."""
    third = len(values) // 3
    return statistics.median(values[third : 2 * third]), statistics.median(values[2 * third :])


def soak(folder: Path, minutes: float, rate: int, seed: int) -> int:
    from servers.postgres import server

    from dataflare.testing import FaultProxy

    rows, chance, port = int(minutes * 60 * rate), random.Random(seed), free_port()
    out, report = folder / "out", folder / "report.json"
    with server() as postgres, FaultProxy("127.0.0.1", postgres.port, seed=seed) as proxy:
        dsn = postgres.dsn()
        file = folder / "soak.yaml"
        through = dsn.replace(f":{postgres.port}", f":{proxy.port}")
        file.write_text(yaml.safe_dump(definition(through, out, rows, rate)))
        command = [
            DATAFLARE,
            "run",
            str(file),
            "--quiet",
            "--json",
            "--metrics",
            f"127.0.0.1:{port}",
        ]
        with report.open("wb") as text:
            process = subprocess.Popen(command, cwd=folder, stdout=text)
        began, samples, latencies = time.monotonic(), list[Sample](), Latencies(port)
        try:
            while process.poll() is None:
                try:
                    process.wait(SAMPLE_S)
                except subprocess.TimeoutExpired:
                    samples.append(sampled(process, latencies, began))
                    disturb(proxy, chance)
                    if time.monotonic() - began > minutes * 90 + 120:
                        raise SystemExit("the run does not end") from None
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        run = json.loads(report.read_text())
        if run["error"] is not None:
            raise SystemExit(f"the run failed: {run['error']}")
        [(counted, windows)] = psql(dsn, "select coalesce(sum(rows), 0), count(*) from counts")
    return told(run, samples, rows, int(counted), windows, in_files(out))


def in_files(out: Path) -> int:
    import polars as pl

    return int(pl.scan_parquet(out / "**/*.parquet").select(pl.len()).collect().item())


def told(
    run: dict[str, Any], samples: list[Sample], rows: int, counted: int, windows: int, filed: int
) -> int:
    late = sum(step["late"] or 0 for step in run["steps"].values())
    is_exact = run["status"] == "finished" and counted + late == rows and filed == rows // 50
    print(
        f"{run['status']}: {rows:,} rows, {counted:,} in {windows:,} windows, {late:,} late, {filed:,} in files"
    )
    print("\n| | second third | last third | bar |\n| --- | --- | --- | --- |")
    flat = True
    for name, values in (
        ("memory, MB", [s.rss_mb for s in samples]),
        ("open files", [float(s.files) for s in samples]),
        ("p99 of 10 s, ms (median)", [s.p99_ms for s in samples]),
    ):
        second, last = thirds(values)
        is_flat = last <= second * MORE + 1
        flat &= is_flat
        print(f"| {name} | {second:,.0f} | {last:,.0f} | flat: {'met' if is_flat else 'missed'} |")
    return 0 if is_exact and flat else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    os.environ["CI"] = "true"
    sys.path.insert(0, str(ROOT / "tests"))
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        return soak(Path(folder), given.minutes, given.rate, given.seed)


if __name__ == "__main__":
    sys.exit(main())
