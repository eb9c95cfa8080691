"""Other tools on the same files, in turns with us: `python -m benchmarks.peers --dlt PYTHON`.

A peer lives in an environment of its own, never in ours; one that is not given is not run, and said.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks import data
from benchmarks.measure import Candidate, take_turns, warm
from benchmarks.workflows import files

HERE = Path(__file__).parent
DATAFLARE = str(Path(sys.executable).parent / "dataflare")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--dlt", metavar="PYTHON", help="the Python of an environment with dlt[parquet]"
    )
    given = parser.parse_args(arguments)
    if given.dlt is None:
        print("dlt: not run, for it was not given (--dlt PYTHON)")
        return
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("csv", "parquet"):
            show(kind, data.orders(given.rows, kind), given, Path(folder))


def show(kind: str, source: Path, given: argparse.Namespace, folder: Path) -> None:
    """One case: from a file to Parquet."""
    warm([source])
    workflow = folder / f"{kind}.yaml"
    workflow.write_text(yaml.safe_dump(files(kind, source, folder / "ours.parquet")))
    job = [given.dlt, str(HERE / "dlt_job.py"), kind, str(source), str(folder / f"dlt_{kind}")]
    candidates = [
        Candidate("dlt", job),
        Candidate("dataflare", [DATAFLARE, "run", str(workflow), "--quiet", "--fresh"]),
    ]
    print(f"{kind} to parquet, {given.rows:,} rows")
    measured = take_turns(candidates, given.repeat, folder / "scratch")
    for each in measured:
        print(
            f"  {each.name:10} {each.wall.median:6.2f} s ({each.wall.min:.2f} to {each.wall.max:.2f}), "
            f"{given.rows / each.wall.median / 1e6:.2f} M rows/s, CPU {each.cpu.median:.2f} s, "
            f"peak {each.rss.median:.0f} MB"
        )
    ratio = measured[-1].against["dlt"]
    print(f"  ratio      {ratio.median:6.2f} ({ratio.min:.2f} to {ratio.max:.2f})", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
