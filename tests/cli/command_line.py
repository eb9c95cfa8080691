"""Run `dataflare` as its users do: a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what would change the answers."""
    changing = ("DATAFLARE_HOME", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in (*changing, "POLARS_MAX_THREADS")
    }
    return kept | {"TZ": "UTC"} | more


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "dataflare", *args]


def cli(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """A command line's outcome."""
    return subprocess.run(
        command(*args),
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one JSON object on standard output."""
    (line,) = done.stdout.splitlines()
    made: dict[str, Any] = json.loads(line)
    return made


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


ORDERS = """\
name: orders
params:
  least: {type: int64, default: 10}
settings: {parallelism: 2, resources: {threads: 3}}
sources:
  rows:
    type: inline
    config:
      rows:
        - {id: 1, country: DE, amount: 5}
        - {id: 2, country: FR, amount: 20}
        - {id: 3, country: DE, amount: 30}
transformations:
  dear:
    type: filter
    inputs: [rows]
    config: {condition: "amount >= ${param:least}"}
destinations:
  out:
    type: file
    inputs: [dear]
    config: {path: out/dear.csv}
"""
"""Three rows, two of them dear enough, into one CSV file."""

PRINTED = """\
name: printed
settings: {parallelism: 1, resources: {threads: 2}}
sources:
  numbers: {type: generate, config: {columns: {id: {sequence: 0}}, rows: 3}}
destinations:
  show: {type: stdout, inputs: [numbers], config: {format: ndjson}}
"""

ENDLESS = """\
name: endless
settings: {parallelism: 1, mode: streaming, resources: {threads: 2}, checkpoint: {interval: 100ms}}
sources:
  numbers: {type: generate, config: {columns: {id: {sequence: 0}}, rate: 200/s}}
destinations:
  show: {type: stdout, inputs: [numbers], config: {format: ndjson}}
"""
