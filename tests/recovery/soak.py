"""Kill runs at random moments for as long as asked: `make soak KILLS=500 SEED=1`.

Every fifty kills the run is let to its end and compared with an undisturbed one.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from harness import Sandbox, same
from test_random_kills import kill_at_random

KILLS_PER_ROUND = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="dataflare-soak-") as folder:
        undisturbed = Sandbox(Path(folder) / "undisturbed", rows=60_000, rate="")
        assert undisturbed.run() == 0
        expected = undisturbed.contents()
        killed = 0
        while killed < options.kills:
            sandbox = Sandbox(Path(folder) / f"round-{killed}", rows=60_000)
            killed += kill_at_random(sandbox, rng, min(KILLS_PER_ROUND, options.kills - killed))
            assert sandbox.run("--set", "sources.orders.config.rate=1000000/s") == 0
            same(sandbox.contents(), expected)
            assert sandbox.leftovers() == []
            print(f"{killed} kills: each row once in every destination", flush=True)


if __name__ == "__main__":
    main()
