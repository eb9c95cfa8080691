"""The files that the cases read, written when first asked for.

Never imports Polars: the peak memory that the kernel notes for a child starts at its parent's, so the
process that measures stays small and leaves the work to children.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DATA = Path(__file__).parent / "data"
CUSTOMERS = 1_000_000


def orders(rows: int, kind: str) -> Path:
    """The orders as one file of `kind`: csv, parquet or ndjson."""
    return _made(f"orders-{rows}.{kind}")


def dirty_orders(rows: int) -> Path:
    """The orders as CSV; the amount of one in a hundred is no number."""
    return _made(f"dirty-{rows}.csv")


def customers() -> Path:
    """The customers as a Parquet file."""
    return _made(f"customers-{CUSTOMERS}.parquet")


def _made(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        DATA.mkdir(exist_ok=True)
        print(f"writing {name}", flush=True)
        command = [sys.executable, "-m", "benchmarks.generate", str(path)]
        subprocess.run(command, check=True, cwd=DATA.parents[1])
    return path


def differences(path: Path, other: Path) -> list[str]:
    """What is not the same in two results, in words. None if they agree."""
    command = [sys.executable, "-m", "benchmarks.check", str(path), str(other)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=DATA.parents[1])
    return done.stdout.splitlines()
