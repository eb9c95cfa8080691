"""The life of a run: which checkpoint it resumes, its attempts, its restarts, how it ends.

Never moves rows itself (that is `engine`) and prints nothing. Leans on `planner` for the plan and on
`checkpoint` for the decision what to resume.
"""

from dataflare.jobs.options import RunOptions
from dataflare.jobs.preview import preview
from dataflare.jobs.progress import Progress, StepProgress
from dataflare.jobs.result import RunResult
from dataflare.jobs.run import run

__all__ = ["Progress", "RunOptions", "RunResult", "StepProgress", "preview", "run"]
