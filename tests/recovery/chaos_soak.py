"""`dataflare chaos` over all examples that need no server: `make chaos SEEDS=200 SEED=1`. Each failure is printed with the
command that repeats it."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many, over all examples")
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("examples", nargs="*", help="files; by default all in examples/")
    asked = parser.parse_args()
    files = [Path(each) for each in asked.examples] or sorted(EXAMPLES.glob("*.yaml"))
    failed = []
    seed = asked.seed
    for at, file in enumerate(files):
        count = asked.seeds // len(files) + (at < asked.seeds % len(files))
        if not count:
            continue
        print(f"{file.name}: seeds {seed} to {seed + count - 1}", flush=True)
        words = ["chaos", str(file), "--seeds", str(count), "--seed", str(seed)]
        if subprocess.run([sys.executable, "-m", "dataflare", *words]).returncode:
            failed.append(file.name)
        seed += count
    print(f"{len(files) - len(failed)} of {len(files)} examples are equal; not: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
