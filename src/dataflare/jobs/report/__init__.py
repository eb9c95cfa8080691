"""The report of a run: one page with what it did over its time, what was slow, and what failed.

It never connects to a system and never runs a workflow: it reads what `jobs.recording` and `checkpoint.runs` have kept. It
depends on the drawings of `planner.render`.
"""

from dataflare.jobs.report.facts import VALUES_HIDDEN, Report, report_of
from dataflare.jobs.report.page import page

__all__ = ["VALUES_HIDDEN", "Report", "page", "report_of"]
