"""Kill runs into PostgreSQL, and PostgreSQL under them, as often as asked: `python soak.py --kills 60 --seed 1`.

Starts a server and run after run into it; what stands in the tables is compared at each run's end.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from killing import POINTS, Run, kill_run, kill_server
from postgres_side import side
from servers.postgres import server

_PER_RUN = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    rng, died = random.Random(asked.seed), 0
    with server() as made, tempfile.TemporaryDirectory(prefix="dataflare-soak-") as folder:
        run = Run(Path(folder), side(made.dsn()))
        while died < asked.kills:
            died += kill_server(run, made, rng, min(_PER_RUN, asked.kills - died))
            run.check()
            run.forget()
            print(f"{died} kills of the server: each row is there once", flush=True)
        kill_run(run, rng, POINTS, asked.kills)
        print(f"{asked.kills} kills of the run: each row is there once", flush=True)


if __name__ == "__main__":
    main()
