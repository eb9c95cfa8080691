"""A run that reads tables of SQLite and DuckDB in parts, several at once, is killed again and again from one
seed, and goes on each time with another parallelism: each row is there once."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from harness import Sandbox

KILLS = 8
SEED = 7_043
ROWS = 6_000
PLACES = [
    "engine.before_prepare", "engine.after_prepare", "engine.before_manifest", "engine.after_manifest",
    "engine.before_commit", "engine.after_commit", "sqlite.commit.before_commit",
    "duckdb.commit.after_commit",
]  # fmt: skip
# Rows without a value, doubles and a part with nothing in it are among these cuts.
CUTS = {
    "ranges": ("sqlite", "{by: range, column: n, splits: 5}"),
    "hashes": ("sqlite", "{by: hash, column: name, splits: 4}"),
    "months": ("duckdb", "{by: time, column: seen, every: month}"),
    "names": ("duckdb", "{by: range, column: name, boundaries: [a, n5, n7, n70]}"),
}
SOURCE = """
  {name}:
    type: {kind}
    config: {{path: {kind}.db, table: t, batch_size: 40, sharding: {cut}}}"""
WORKFLOW = """\
name: cut
version: "1.0"
settings:
  parallelism: 3
  checkpoint: {{interval: 20ms}}
sources:{sources}
destinations:
  ranges_out: {{type: duckdb, inputs: [ranges], config: {{path: out/duck.db, table: ranges}}}}
  hashes_out: {{type: file, inputs: [hashes], config: {{path: out/hashes.parquet}}}}
  months_out: {{type: sqlite, inputs: [months], config: {{path: out/lite.db, table: months}}}}
  names_out: {{type: file, inputs: [names], config: {{path: out/names, partition_by: [n]}}}}
"""


def rows() -> list[tuple[Any, ...]]:
    rng, start = random.Random(SEED), datetime(2025, 11, 3)
    return [
        (
            number,
            rng.choice([None, rng.randint(0, 9)]),
            f"n{number % 90}" if number % 7 else None,
            str(start + timedelta(hours=number)) if number % 11 else None,
        )
        for number in range(ROWS)
    ]


class CutSandbox(Sandbox):
    """The tables to be read, and a workflow that reads each in two ways."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        sources = "".join(
            SOURCE.format(name=name, kind=kind, cut=cut) for name, (kind, cut) in CUTS.items()
        )
        (self.folder / "workflow.yaml").write_text(WORKFLOW.format(sources=sources))
        table = "create table t (id integer, n integer, name varchar, seen timestamp)"
        for connect, name in ((sqlite3.connect, "sqlite.db"), (duckdb.connect, "duckdb.db")):
            db: Any = connect(self.folder / name)
            db.execute(table)
            if name == "sqlite.db":
                db.executemany("insert into t values (?, ?, ?, ?)", rows())
            else:
                frame = pl.DataFrame(rows(), schema=["id", "n", "name", "seen"], orient="row")  # noqa: F841
                db.execute("insert into t select id, n, name, seen::timestamp from frame")
            db.commit()
            db.close()

    def numbers(self) -> dict[str, list[int]]:
        """Of the rows that every destination holds."""
        out = self.folder / "out"
        with sqlite3.connect(out / "lite.db") as lite:
            months = [n for (n,) in lite.execute("select id from months")]
        with duckdb.connect(str(out / "duck.db"), read_only=True) as duck:
            ranges = [n for (n,) in duck.execute("select id from ranges").fetchall()]
        return {
            "ranges": sorted(ranges),
            "hashes": sorted(pl.read_parquet(out / "hashes.parquet")["id"]),
            "months": sorted(months),
            "names": sorted(pl.read_parquet(out / "names/**/*.parquet")["id"]),
        }

    def check(self) -> None:
        for name, found in self.numbers().items():
            assert len(found) == ROWS, f"{name}: {len(found)} rows, not {ROWS}"
            assert found == list(range(ROWS)), name
        assert self.leftovers() == []

    def forget(self) -> None:
        """Begin anew."""
        for name in ("out", ".dataflare"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def die(self, rng: random.Random) -> bool:
        """Run, and die at a place of the protocol or at any moment; False where it came to its end."""
        parallelism = ("--set", f"settings.parallelism={rng.randint(2, 4)}")
        moment = rng.uniform(0.4, 1.6)
        place = f"{rng.choice(PLACES)}:{rng.randint(1, 6)}"
        if rng.random() < 0.5:
            return self.run(*parallelism, crash_at=place) == -signal.SIGKILL
        process = self.start(*parallelism)
        try:
            _, errors = process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return True
        assert process.returncode == 0, errors
        return False


@pytest.mark.rotates(3)
def test_parts_read_at_once_lose_and_double_nothing_when_the_run_is_killed(tmp_path: Path):
    sandbox, rng, died, resumed = CutSandbox(tmp_path / "run"), random.Random(SEED), 0, 0
    while died < KILLS:
        resumed += any(sandbox.folder.glob(".dataflare/**/*manifest*"))
        if sandbox.die(rng):
            died += 1
        else:
            sandbox.check()
            sandbox.forget()
    assert sandbox.run() == 0
    sandbox.check()
    assert resumed, "no run went on from a checkpoint"
