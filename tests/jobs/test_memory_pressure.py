"""A run whose process has too little memory lets fewer tasks go on at once: the results are the same, and the memory is bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from dataflare.engine import memory_guard
from dataflare.jobs import Progress, RunOptions, RunResult, run
from dataflare.jobs.watching import Watch
from dataflare.workflow.load import load_text

FLOW = """\
name: pressed
settings:
  parallelism: 4
  batch: {initial: 1000, min: 500, max: 1000}
  checkpoint: {interval: 50ms}
  resources: {memory: 64MiB, threads: 4}
sources:
  orders: {type: file, config: {path: "orders/*.csv"}}
  customers: {type: file, config: {path: "customers/*.csv"}}
transformations:
  joined:
    type: join
    inputs: [orders, customers]
    config: {kind: left, on: [customer]}
  totals:
    type: aggregate
    inputs: [joined]
    config: {group_by: [city], measures: {orders: "count(*)", amount: "sum(amount)"}}
  sorted: {type: sort, inputs: [joined], config: {by: [id]}}
destinations:
  totals_out: {type: file, inputs: [totals], config: {path: totals.csv}}
  rows_out: {type: file, inputs: [sorted], config: {path: rows.csv}}
"""


def tables(folder: Path) -> None:
    for name in ("orders", "customers"):
        (folder / name).mkdir()
    for part in range(12):
        ids = range(part * 2_000, (part + 1) * 2_000)
        frame = pl.DataFrame({"id": ids, "customer": [n * 7 % 3_000 for n in ids]})
        frame.with_columns(amount=pl.col("id") % 97).write_csv(folder / f"orders/{part}.csv")
        people = range(part * 250, (part + 1) * 250)
        frame = pl.DataFrame({"customer": people, "city": [f"c{n % 13}" for n in people]})
        frame.write_csv(folder / f"customers/{part}.csv")


def start(folder: Path, said: list[str], watches: list[Watch]) -> RunResult:
    @contextmanager
    def observed(watch: Watch) -> Iterator[None]:
        watches.append(watch)
        yield

    def listen(progress: Progress) -> None:
        if progress.message is not None:
            said.append(progress.message)

    options = RunOptions(folder / "home", listener=listen, observers=[observed])
    return run(load_text(FLOW, base=folder), options)


def outcome(folder: Path) -> list[list[tuple[object, ...]]]:
    totals = pl.read_csv(folder / "totals.csv").sort("city").rows()
    return [totals, pl.read_csv(folder / "rows.csv").rows()]


def test_results_are_the_same_with_one_task_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process says all the time that it has too much."""
    for name in ("free", "pressed"):
        (tmp_path / name).mkdir()
        tables(tmp_path / name)
    said, watches = list[str](), list[Watch]()
    assert start(tmp_path / "free", said, watches).status == "finished"
    assert not [text for text in said if "memory" in text]

    looks, shares = [0], list[float]()

    def rss() -> int:
        looks[0] += 1
        if watches[1:]:
            shares.append(watches[1].view().memory_share)
        return (1 << 30) if looks[0] > 1 else 1 << 20

    monkeypatch.setattr(memory_guard, "rss_bytes", rss)
    monkeypatch.setattr(memory_guard, "_LOOK_S", 0.001)
    monkeypatch.setattr(memory_guard, "_LOOK_SOON_S", 0.001)
    monkeypatch.setattr(memory_guard, "_SETTLE_S", 0.0)
    result = start(tmp_path / "pressed", said, watches)
    assert result.status == "finished", result.error
    assert outcome(tmp_path / "pressed") == outcome(tmp_path / "free")
    assert min(shares) < 0.3
    assert [w for w in result.warnings if "fewer tasks computed at once" in w]
    view = watches[1].view()
    assert (view.memory_share, view.memory_short) == (1.0, None)


CHILD = """\
import sys
from dataflare.__main__ import main
if sys.argv.pop(1) == "unguarded":
    from dataflare.engine.memory_guard import MemoryGuard
    MemoryGuard.look = lambda self: False
sys.exit(main())
"""
MEASURED = """\
import resource, subprocess, sys
ended = subprocess.run([sys.executable, *sys.argv[1:]], capture_output=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(ended.returncode, peak << 10)
sys.stdout.flush()
sys.stdout.buffer.write(ended.stdout)
"""
HEAVY = """\
name: heavy
settings:
  parallelism: 8
  batch: {initial: 1000, min: 1000, max: 1000}
  resources: {memory: 200MiB, threads: 6}
sources:
  rows: {type: file, config: {path: "in/*.csv"}}
transformations:
  heavy: {type: python, inputs: [rows], config: {function: "work:heavy"}}
destinations:
  out: {type: file, inputs: [heavy], config: {path: out.csv}}
"""
WORK = """\
import time
import polars as pl


def heavy(frame):
    # Each batch needs more than the one before, up to 100 MB, for a while.
    size = min(100, int(frame["id"].max()) // 1_000) << 20
    held = bytearray(size)
    for at in range(0, size, 4096):
        held[at] = 1
    time.sleep(0.05)
    return frame.with_columns(n=pl.lit(len(held)))
"""


def peak_of(folder: Path, how: str) -> int:
    (folder / "child.py").write_text(CHILD)
    command = [sys.executable, "-c", MEASURED, "child.py", how, "run", "heavy.yaml", "--json"]
    env = {**os.environ, "DATAFLARE_HOME": str(folder / how)}
    made = subprocess.run(command, cwd=folder, env=env, capture_output=True, check=True)
    first, _, rest = made.stdout.partition(b"\n")
    status, peak = map(int, first.split())
    assert status == 0, made.stdout + made.stderr
    warned = [w for w in json.loads(rest)["warnings"] if "memory was short" in w]
    assert bool(warned) == (how == "guarded")
    return peak


def test_the_memory_of_the_process_stays_in_its_bounds(tmp_path: Path) -> None:
    """A user's function needs more and more: eight at a time need three times what the run may have."""
    (tmp_path / "heavy.yaml").write_text(HEAVY)
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "in").mkdir()
    for part in range(120):
        ids = range(part * 1_000, (part + 1) * 1_000)
        pl.DataFrame({"id": ids}).write_csv(tmp_path / f"in/{part:03}.csv")
    unguarded = peak_of(tmp_path, "unguarded")
    rows = pl.read_csv(tmp_path / "out.csv").sort("id").rows()
    guarded = peak_of(tmp_path, "guarded")
    assert pl.read_csv(tmp_path / "out.csv").sort("id").rows() == rows
    # What it has when it begins is below 150 MB.
    # It looks a few times a second, and on a busy machine later: half a batch of all may come in between.
    most = (200 << 20) + memory_guard.OVERHEAD + (200 << 20) * 2
    print(f"{guarded >> 20} MB guarded, {unguarded >> 20} MB unguarded, {most >> 20} MB allowed")
    assert guarded <= most < unguarded
