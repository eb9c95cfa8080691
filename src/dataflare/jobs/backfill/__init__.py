"""Run a workflow once for each part of its rows: `dataflare backfill`.

Each shard is a run with a home and a lineage of its own, into the same destinations; a shard that has finished is never run
again. It does not change how one run works. It depends on `jobs.run`, the task scheduler and the worker pool.
"""

from dataflare.jobs.backfill.backfill import Backfill, Options, Report, ShardEnded
from dataflare.jobs.backfill.running import Loading

__all__ = ["Backfill", "Loading", "Options", "Report", "ShardEnded"]
