"""For pathway: `files SOURCE OUT` or `latency RATE SECONDS OUT`.

Files: `pw.io.csv` in static mode to `pw.io.jsonlines`, two threads, the engine's
own expressions where it has them.
Latency: a Python subject, commits each 5 ms.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

if sys.argv[1:2] == ["files"]:
    # What `pathway spawn --threads 2` sets.
    os.environ.setdefault("PATHWAY_THREADS", "2")

import pathway as pw

MASK = re.compile(r"^(.).*@")


class Order(pw.Schema):
    order_id: int
    customer_id: int
    status: str
    amount: float
    country: str
    email: str
    created_at: str
    sku: str


@pw.udf(deterministic=True)
def masked(email: str) -> str:
    return MASK.sub(r"\1***@", email)


def files(source: str, out: str) -> None:
    orders = pw.io.csv.read(source, schema=Order, mode="static")
    completed = orders.filter(pw.this.status == "completed")
    derived = completed.with_columns(
        created_at=pw.this.created_at.dt.strptime("%Y-%m-%dT%H:%M:%S"),
        gross=pw.this.amount * 1.2,
        country=pw.this.country.str.upper(),
        email=masked(pw.this.email),
    )
    pw.io.jsonlines.write(derived, out)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


class Event(pw.Schema):
    number: int  # `id` is the engine's own word
    user: int
    amount: float
    status: str
    at: int


class Paced(pw.io.python.ConnectorSubject):
    """Rows when they are due; the first one is when the flow starts."""

    deletions_enabled = False

    def __init__(self, rate: int, total: int) -> None:
        super().__init__()
        self._rate, self._total = rate, total

    def run(self) -> None:
        began, done = time.time_ns(), 0
        while done < self._total:
            due = min(self._total, (time.time_ns() - began) * self._rate // 1_000_000_000)
            for i in range(done, due):
                self.next(
                    number=i,
                    user=i % 1000,
                    amount=i % 100 + 0.5,
                    status="gone" if i % 2 else "active",
                    at=began + i * 1_000_000_000 // self._rate,
                )
            done = due
            time.sleep(0.001)


def latency(rate: str, seconds: str, out: str) -> None:
    from benchmarks.latency import write_result

    late_ms: list[float] = []

    def note(key: object, row: dict, time: int, is_addition: bool) -> None:
        late_ms.append((now() - row["at"]) / 1e6)

    now = time.time_ns
    events = pw.io.python.read(
        Paced(int(rate), int(rate) * int(seconds)), schema=Event, autocommit_duration_ms=5
    )
    active = events.filter(pw.this.status == "active")
    pw.io.subscribe(active.with_columns(gross=pw.this.amount * 1.2), on_change=note)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
    write_result(Path(out), late_ms)


if __name__ == "__main__":
    {"files": files, "latency": latency}[sys.argv[1]](*sys.argv[2:])
