"""Mirror tests with many seeds: `make mirrors SEEDS=200 SEED=1`. Each failure is one seed, which repeats it."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "connectors" / "kafka"))

from mirror_scenario import mirror
from mirror_servers import both_servers

_EVENTS = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--events", type=int, default=_EVENTS, help="faults in each")
    parser.add_argument("--kafka", action="store_true", help="a topic is one of the destinations")
    asked = parser.parse_args()
    failed = []
    with ExitStack() as stack:
        servers = stack.enter_context(both_servers())
        if asked.kafka:
            from servers.services import SERVICES

            servers["kafka"] = stack.enter_context(SERVICES["kafka"].server())
        for seed in range(asked.seed, asked.seed + asked.seeds):
            started = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="dataflare-mirror-") as folder:
                try:
                    scenario = mirror(seed, servers, Path(folder), asked.events)
                except AssertionError as error:
                    failed.append(seed)
                    print(
                        f"{error}\nagain: {sys.argv[0]} --seed {seed} --seeds 1 --events {asked.events}"
                    )
                else:
                    print(
                        f"{scenario.title}: equal, {time.monotonic() - started:.1f} s", flush=True
                    )
    print(f"{asked.seeds - len(failed)} of {asked.seeds} are equal; not: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
