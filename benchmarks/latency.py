"""How late rows arrive: `python -m benchmarks.latency run FILE OUT` or `... bare RATE SECONDS OUT`.

`run` is `dataflare run` with one more destination, which notes for each row how long ago it was due.
`bare` does the same work in a plain loop that looks at the clock each millisecond: the floor. Both
write {"rows", "p50_ms", "p99_ms", "max_ms", "cpu_s"}; the CPU seconds are the whole process's.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataflare.model.batch import SharedDataBatch


def write_result(out: Path, late_ms: Sequence[float]) -> None:
    """Percentiles of all rows, by nearest rank."""
    ranked = sorted(late_ms)
    usage = resource.getrusage(resource.RUSAGE_SELF)

    def rank(share: float) -> float:
        return round(ranked[min(len(ranked) - 1, int(len(ranked) * share))], 3)

    result = {
        "rows": len(ranked),
        "p50_ms": rank(0.5),
        "p99_ms": rank(0.99),
        "max_ms": round(ranked[-1], 3),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
    }
    out.write_text(json.dumps(result))


def run(file: str, out: Path) -> None:
    """`dataflare run FILE --quiet`, with the destination `latency_probe`."""
    os.environ["LATENCY_OUT"] = str(out)
    register_probe()
    from dataflare.__main__ import main

    sys.argv[1:] = ["run", file, "--quiet"]
    sys.exit(main())


def register_probe() -> None:
    """Make `latency_probe` known, by the contracts that any plugin uses."""
    import polars as pl
    from pydantic import BaseModel

    from dataflare.sdk.destination import (
        Delivery,
        DestinationCapabilities,
        DestinationConnector,
        Writer,
        WriteStats,
    )
    from dataflare.sdk.registry import register

    class Probe(Writer):
        """Keeps one small column per batch; sums up when it is closed."""

        takes_at_once = True

        def __init__(self) -> None:
            self.seen: list[tuple[int, pl.Series]] = []

        async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
            self.seen.append((time.time_ns() // 1000, batch.frame["at"]))
            return WriteStats(batch.num_rows)

        async def aclose(self) -> None:
            if self.seen:
                now_us = pl.concat([pl.repeat(now, len(at), eager=True) for now, at in self.seen])
                late = now_us - pl.concat([at for _, at in self.seen]).dt.epoch("us")
                write_result(Path(os.environ["LATENCY_OUT"]), (late / 1000).to_list())
                self.seen.clear()

    class NoConfig(BaseModel):
        pass

    class LatencyProbe(DestinationConnector):
        type = "latency_probe"
        Config = NoConfig

        def capabilities(self) -> DestinationCapabilities:
            return DestinationCapabilities(Delivery.FLEETING, "measures and keeps nothing")

        async def open(self, context: Any, restored: Any) -> Writer:
            return Probe()

    register(LatencyProbe)


def bare(rate: int, seconds: int, out: Path) -> None:
    """A loop that polls each millisecond and parses, filters and maps each row that is due."""
    import orjson

    active = orjson.dumps({"id": 1, "user": 7, "amount": 12.5, "status": "active"})
    gone = orjson.dumps({"id": 2, "user": 8, "amount": 99.5, "status": "gone"})
    late_ms: list[float] = []
    began = time.time_ns()
    done, total = 0, rate * seconds
    while done < total:
        now = time.time_ns()
        due = min(total, (now - began) * rate // 1_000_000_000)
        for i in range(done, due):
            row = orjson.loads(active if i % 2 else gone)
            if row["status"] == "active":
                row["gross"] = row["amount"] * 1.2
                late_ms.append((time.time_ns() - began - i * 1_000_000_000 // rate) / 1e6)
        done = due
        time.sleep(0.001)
    write_result(out, late_ms)


def main(arguments: list[str]) -> None:
    if arguments[0] == "run":
        run(arguments[1], Path(arguments[2]))
    else:
        bare(int(arguments[1]), int(arguments[2]), Path(arguments[3]))


if __name__ == "__main__":
    main(sys.argv[1:])
