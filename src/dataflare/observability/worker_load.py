"""What the workers of a run on a cluster do with their time, and what goes over their links. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from dataflare.observability.times import Spent
from dataflare.observability.view import RunView

_LEAST_S = 0.05
_BUSY = 0.5


class WorkerLoad(Struct, frozen=True):
    """busy: the share of the time in which its tasks work, on average. bytes_per_s: to each other worker. rss_bytes: its
    memory; None where it is not known."""

    worker: str
    busy: float
    bytes_per_s: Mapping[str, float]
    rss_bytes: int | None = None


def worker_loads(now: RunView, before: RunView | None = None) -> list[WorkerLoad]:
    """Of all workers of a run, by their names in order. before: an earlier look at the same run, only the time since then counts;
    bytes a second need one."""
    earlier = before.workers if before is not None else {}
    seconds = now.at - before.at if before is not None else 0.0
    loads = []
    for name, each in sorted(now.workers.items()):
        past = earlier.get(name)
        spent = each.spent
        rates: dict[str, float] = {}
        if past is not None and seconds > 0:
            since = each.spent.since(past.spent)
            spent = since if since.total_s > 0 else Spent()
            rates = {
                # A new attempt counts again.
                other: max(0, sent - past.sent_bytes.get(other, 0)) / seconds
                for other, sent in each.sent_bytes.items()
            }
        busy = spent.busy_s / spent.total_s if spent.total_s > 0 else 0.0
        rss_bytes = each.process.rss_bytes if each.process is not None else None
        loads.append(WorkerLoad(name, busy, rates, rss_bytes))
    return loads


def slowest_worker(now: RunView, before: RunView | None = None) -> WorkerLoad | None:
    """The worker whose tasks work most of the time: the others wait for it. None where no worker is busy."""
    if sum(each.spent.total_s for each in now.workers.values()) < _LEAST_S:
        return None
    loads = worker_loads(now, before)
    busiest = max(loads, key=lambda load: load.busy, default=None)
    return busiest if busiest is not None and busiest.busy >= _BUSY else None
