"""The life of a run: the checkpoint that it resumes, its attempts, its restarts and its end.

It does not move rows (`engine` does) and prints nothing. It depends on `planner` for the plan and on
`checkpoint` for the decision what to resume.
"""

from dataflare.jobs.options import RunOptions
from dataflare.jobs.preview import preview
from dataflare.jobs.progress import Progress, StepProgress
from dataflare.jobs.result import RunResult
from dataflare.jobs.run import arun, run

__all__ = ["Progress", "RunOptions", "RunResult", "StepProgress", "arun", "preview", "run"]
