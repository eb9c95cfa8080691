"""What a run raises, as an error that says whose fault it is and where it stands in the workflow file."""

from __future__ import annotations

import errno

from dataflare.errors import Blame, DataFlareError, InternalError, SystemError_
from dataflare.workflow.model import Workflow
from dataflare.workflow.places import mentioned


def place(workflow: Workflow, error: DataFlareError) -> DataFlareError:
    """Fill in where in the workflow file the step stands that an error names. Without a step: the
    only step whose path or query the error mentions."""
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
    """Any exception as a DataFlareError. An unexpected one asks for a report."""
    if isinstance(raised, DataFlareError):
        return raised
    if isinstance(raised, OSError):
        if raised.errno == errno.ENOSPC:
            return SystemError_(
                f"disk full: {raised.filename or raised}",
                code="E0603",
                help="free some space and run again: it goes on from the last checkpoint",
            )
        return SystemError_(
            f"the system refused: {raised}",
            code="E0602",
            help="see who may read and write there, and how many files may be open",
        )
    error = InternalError(
        f"{type(raised).__name__}: {raised}",
        help="this is a bug in DataFlare; please report it, with the output of --debug",
    )
    error.__cause__ = raised
    return error
