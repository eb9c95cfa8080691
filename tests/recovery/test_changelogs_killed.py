"""SIGKILL at random moments of a run whose joins and aggregates take rows back: the same tables as undisturbed."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

KILLS, SEED, ROWS = 5, 20_262, 8_000

WORKFLOW = f"""\
name: changes
version: "1.0"
settings:
  parallelism: 2
  checkpoint: {{interval: 30ms}}
  batch: {{initial: 300, min: 100, max: 1000}}
sources:
  orders:
    type: generate
    config: {{rows: {ROWS}, rate: 1000000/s, seed: 7, columns: {{id: {{sequence: 0}}, user: {{int: [1, 60]}}, amount: {{int: [0, 100]}}}}}}
  visits:
    type: generate
    config: {{rows: {ROWS}, rate: 1000000/s, seed: 8, columns: {{visit: {{sequence: 0}}, user: {{int: [1, 90]}}, page: {{int: [0, 9]}}}}}}
transformations:
  spent: {{type: aggregate, inputs: [orders], config: {{emit: updates, group_by: [user], measures: {{total: sum(amount), last_order: max(id)}}}}}}
  seen: {{type: aggregate, inputs: [visits], config: {{emit: updates, group_by: [user], measures: {{pages: count(distinct page), visits: count(*)}}}}}}
  both: {{type: join, inputs: [spent, seen], config: {{kind: full, on: [user]}}}}
  classes: {{type: map, inputs: [both], config: {{derive: {{class: \"coalesce(visits, 0) % 7\"}}}}}}
  by_class: {{type: aggregate, inputs: [classes], config: {{emit: updates, group_by: [class], measures: {{users: count(*), total: sum(total), most: max(last_order)}}}}}}
  newest: {{type: deduplicate, inputs: [classes], config: {{key: class, keep: last, order_by: [last_order, user]}}}}
destinations:
  users: {{type: sqlite, inputs: [classes], config: {{path: out.db, table: users, mode: mirror, key: [user]}}}}
  totals: {{type: sqlite, inputs: [by_class], config: {{path: out.db, table: totals, mode: mirror, key: [class]}}}}
  newest_out: {{type: sqlite, inputs: [newest], config: {{path: out.db, table: newest, mode: mirror, key: [class]}}}}
"""


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    command = [sys.executable, "-m", "dataflare", "run", "w.yaml", "--quiet", *options]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def finished(folder: Path) -> dict[str, list[Any]]:
    process = start(folder)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    with closing(sqlite3.connect(folder / "out.db")) as database:
        return {
            table: database.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3").fetchall()
            for table in ("users", "totals", "newest")
        }


@pytest.mark.rotates(3)
def test_joins_and_aggregates_of_changelogs_killed_at_random_moments(tmp_path: Path) -> None:
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w.yaml").write_text(WORKFLOW)
    expected = finished(tmp_path / "undisturbed")
    assert len(expected["users"]) == 90
    assert sum(row[1] for row in expected["totals"]) == 90
    rng, died = random.Random(SEED), 0
    slow = [
        part
        for name in ("orders", "visits")
        for part in ("--set", f"sources.{name}.config.rate=1500/s")
    ]
    for _ in range(KILLS):
        parallelism = f"settings.parallelism={rng.randint(1, 3)}"
        process = start(tmp_path / "killed", *slow, "--set", parallelism)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=rng.uniform(0.8, 2.0))
        if process.poll() is None:
            process.kill()
            died += 1
        process.communicate()
    assert died > KILLS // 2
    assert finished(tmp_path / "killed") == expected
