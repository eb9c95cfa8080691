"""Convert exceptions of a run to errors that say whose fault it is, and the place in the workflow file."""

from __future__ import annotations

import errno

from dataflare.errors import Blame, DataFlareError, InternalError, SystemError_
from dataflare.workflow.model import Workflow
from dataflare.workflow.places import mentioned


def place(workflow: Workflow, error: DataFlareError) -> DataFlareError:
    """Add to an error the place in the workflow file of its step. If the error has no step, use the only
    step whose path or query it mentions."""
    if error.spot is not None or error.blame is Blame.INTERNAL:
        return error
    steps = {step.name: step for step in workflow.steps()}
    if error.step in steps:
        return error.at(spot=steps[error.step].place_of(error))
    spots = {name: mentioned(step, error) for name, step in steps.items()}
    likely = [(name, spot) for name, spot in spots.items() if spot is not None]
    if error.step is None and len(likely) == 1:
        error.at(step=likely[0][0], spot=likely[0][1])
    return error


def as_dataflare_error(raised: Exception) -> DataFlareError:
    """Any exception as a DataFlareError. For an unexpected one the help asks the user to report it."""
    if isinstance(raised, DataFlareError):
        return raised
    if isinstance(raised, OSError):
        if raised.errno == errno.ENOSPC:
            return SystemError_(
                f"disk full: {raised.filename or raised}",
                code="E0603",
                help="free some space and run again; the run resumes from its last checkpoint",
            )
        return SystemError_(
            f"the system refused: {raised}",
            code="E0602",
            help="check the permissions there, and the limit of open files",
        )
    error = InternalError(
        f"{type(raised).__name__}: {raised}",
        help="this is a bug in DataFlare; please report it, with the output of --debug",
    )
    error.__cause__ = raised
    return error
