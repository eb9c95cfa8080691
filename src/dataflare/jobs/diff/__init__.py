"""Compare two tables of any two systems: `dataflare diff`.

It writes to neither of them, and takes no row for equal that is not. It depends on `planner` and `engine` to read a side
as a run does, and on `sdk.sql` for checksums that databases compute.
"""

from dataflare.jobs.diff.columns import ColumnDifference
from dataflare.jobs.diff.comparing import Diff, Options, diff
from dataflare.jobs.diff.differences import Differences
from dataflare.jobs.diff.places import sides

__all__ = ["ColumnDifference", "Diff", "Differences", "Options", "diff", "sides"]
