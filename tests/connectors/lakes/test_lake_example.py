"""The example with lakes, as its comment says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from lake_kit import Lake

EXAMPLES = Path(__file__).parents[3] / "examples"
ORDERS = [(1, "DE"), (2, "FR"), (4, "??"), (5, "US"), (6, "FR"), (7, "JP")]


def test_orders_are_in_both_lakes(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "data", tmp_path / "data")
    shutil.copytree(EXAMPLES / "lakes", tmp_path / "lakes", ignore=shutil.ignore_patterns("out"))
    out = tmp_path / "lakes" / "out"
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "dataflare", "run", "--quiet", "lakes/orders.yaml"],
            env={n: v for n, v in os.environ.items() if n != "DATAFLARE_HOME"},
            cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    newest = Lake("delta", out, str(out)).frame("orders")
    assert sorted(newest.select("order_id", "country").rows()) == ORDERS
    every = Lake("iceberg", out, (out / "lake").as_uri()).frame("orders")
    assert sorted(every.select("order_id", "country").rows()) == sorted(ORDERS * 2)
