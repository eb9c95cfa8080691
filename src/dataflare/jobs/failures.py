"""Convert exceptions of a run to errors that say whose fault it is, and the place in the workflow file."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec.structs import replace

from dataflare.checkpoint.runs import RunFailure, RunRecord, utc_text
from dataflare.errors import Blame, DataFlareError, InternalError, Retry, SystemError_
from dataflare.resilience.backoff import backoff_s
from dataflare.resilience.policy import AFTER_MAX_S
from dataflare.sdk import user_exits
from dataflare.sdk.user_exits import is_interrupt
from dataflare.workflow.model import Workflow
from dataflare.workflow.places import mentioned

if TYPE_CHECKING:
    from dataflare.jobs.lineage import Lineage
    from dataflare.workflow.settings import Restart


class Restarts:
    """The failed attempts of a run, judged by its `settings.restart`."""

    def __init__(self, policy: Restart) -> None:
        self._policy = policy
        self._failed_at: list[float] = []

    def delay_s(self, error: DataFlareError) -> float | None:
        """An attempt has failed: how long to wait before the next one, seconds. None: none follows."""
        policy, now = self._policy, time.monotonic()
        self._failed_at = [t for t in self._failed_at if now - t < policy.window] + [now]
        if error.retry is Retry.NEVER or len(self._failed_at) > policy.attempts:
            return None
        delay = backoff_s(policy.delay, policy.max_delay, len(self._failed_at))
        return max(delay, min(error.retry_after_s or 0.0, AFTER_MAX_S))


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


@contextlib.contextmanager
def recorded_failure(lineage: Lineage, record: RunRecord) -> Iterator[None]:
    """Record the error of a run that ends here with one, such as an address for metrics that is taken: without it the run
    would be listed as killed. What a run had committed before stays so. The error is raised as it is."""
    try:
        yield
    except BaseException as raised:
        failed = replace(record, status="stopped", ended_at=utc_text(time.time()))
        if not isinstance(raised, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt):
            error = place(lineage.workflow, as_dataflare_error(raised))
            failed = replace(failed, status="failed", error=RunFailure.of(error))
        # Not on a thread: whatever ends the run must not end this too. A full disk may refuse it.
        with contextlib.suppress(OSError, DataFlareError):
            if not lineage.current.finished:
                lineage.log.finish(failed)
        raise


def as_dataflare_error(raised: BaseException) -> DataFlareError:
    """Any exception as a DataFlareError. For an unexpected one the help asks the user to report it. Raises an
    interruption as it is."""
    if isinstance(raised, DataFlareError):
        return raised
    if is_interrupt(raised):
        raise raised
    if isinstance(raised, user_exits.ENDS):
        error: DataFlareError = user_exits.as_error(raised)
        error.__cause__ = raised
        return error
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
