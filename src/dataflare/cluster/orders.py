"""What a job and its workers tell each other, in the order of an attempt.

    job to worker    Meet          compare versions, see the shared folder, join the other workers
    worker to job    Met           done, or why not
    job to worker    Begin         make these tasks
    worker to job    Built         they are there, and joined to those of other workers
    job to worker    Go            let them run
                     Cut           cut an epoch
                     ToTask        a word of the coordinator to one of them
                     NoteHolding   the run stops: note what event time waited for
                     Thin          let only some rows of sources go on
                     Warm          have these chunks on the disk of your machine
                     Leave         the run stops: wait for no system that fails
                     Look          show some rows of edges; LookEnd: no more
                     Trip          the system of a step fails for others
    worker to job    Shared        a task's share of an epoch, with its counts
                     Failed        a task cannot go on
                     Ask           a task asks for a split
    job to worker    Answer        the split
    worker to job    Want          a source wants a checkpoint
                     Warmed        these chunks are there
                     Report        how the tasks are, a few times a second
                     Told          a notice for the run's user
                     Looked        rows for a look
                     Ended         all tasks have ended, or one has failed
    job to worker    Finish        close everything
    worker to job    Closed        it is closed

They are pickled. Both sides have proved before that they know the token of the job, so neither reads what a stranger sent.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from dataflare.checkpoint.shared_places import SharedPlace
from dataflare.checkpoint.shared_store import SharedStore
from dataflare.checkpoint.snapshots import StateChunk
from dataflare.engine.coordinator import Identity
from dataflare.engine.hosting import TaskView
from dataflare.engine.messages import (
    Assign,
    Checkpoint,
    Committed,
    Deploy,
    Fail,
    Found,
    Opened,
    Share,
    Wait,
)
from dataflare.engine.metrics import StepMetrics
from dataflare.engine.row_errors import RowErrors
from dataflare.errors import ConfigError, DataFlareError, InternalError
from dataflare.observability.times import Doing, Histogram, Spent
from dataflare.observability.view import ProcessView
from dataflare.planner.physical import PhysicalPlan
from dataflare.resilience.retry import Retries

if TYPE_CHECKING:
    import polars as pl

    from dataflare.expr import Typed
    from dataflare.workflow.settings import Settings

Address = tuple[str, int]
Rate = tuple[float | None, float | None]
"""Rows and bytes a second."""
Tell = Callable[[str, tuple[Any, ...]], None]
"""Tells the run's user: what, and its arguments."""


class Outfit(Struct, frozen=True):
    """What a worker makes for itself, because it cannot be sent. store: opens the storage of checkpoints; its argument is a
    folder of the worker, or None in the process of the job. retries: the
    policies of calls. secrets: texts that no message shows. base: the folder that relative paths start from."""

    store: Callable[[Path | None], SharedStore]
    retries: Callable[[Tell], Retries]
    secrets: Sequence[str]
    base: Path


class Meet(Struct, frozen=True):
    """name: of the attempt, the same for all its workers. me: the worker that this is for; worker: its name. peers: the addresses
    of all; joins: those that it exchanges rows with. versions: of the job. place and mark: see `meeting`."""

    name: str
    me: int
    worker: str
    peers: tuple[Address, ...]
    joins: tuple[int, ...]
    versions: Mapping[str, str]
    place: SharedPlace
    mark: str


class Met(Struct, frozen=True):
    """The worker is ready; failed: why it is not. accused: another worker that it cannot reach."""

    failed: BaseException | None = None
    accused: int | None = None


class Begin(Struct, frozen=True):
    """specs: all tasks of the plan; those of other workers without their state.
    placed: by task, its worker. me: the worker that this is for. kinds: of the
    steps, for their counts. rates: by step, of all its tasks together. handed_over: as `SharedStore` says."""

    plan: PhysicalPlan
    settings: Settings
    identity: Identity
    errors: RowErrors
    outfit: Outfit
    specs: tuple[Deploy, ...]
    placed: Mapping[str, int]
    me: int
    kinds: Mapping[str, str]
    errors_max: Mapping[str, int | float]
    rates: Mapping[str, Rate]
    handed_over: Mapping[str, bytes]


class Built(Struct, frozen=True):
    """The tasks are there."""


class Go(Struct, frozen=True):
    """Let the tasks run."""


class Cut(Struct, frozen=True):
    """Every task of the worker is asked for a cut."""

    asked: Checkpoint


class ToTask(Struct, frozen=True):
    """A word of the coordinator to one task."""

    task: str
    word: Opened | Found | Committed


class NoteHolding(Struct, frozen=True):
    """See `Host.note_holding`."""


class Leave(Struct, frozen=True):
    """The run stops: no wait for a system that fails holds it up."""


class Thin(Struct, frozen=True):
    """So much of the sources' rows goes on; None: all."""

    share: float | None


class Warm(Struct, frozen=True):
    """Chunks of another worker, of which this one's machine keeps copies."""

    chunks: Sequence[StateChunk]


class Warmed(Struct, frozen=True):
    """They are there, except those that could not be read."""

    chunks: Sequence[StateChunk]


class Look(Struct, frozen=True):
    """Some rows of edges are wanted. The rest is as for a `Tap`."""

    number: int
    edges: tuple[int, ...]
    per_s: float
    where: Typed | None
    hide: Callable[[pl.DataFrame], pl.DataFrame]


class LookEnd(Struct, frozen=True):
    """No rows are wanted any more."""

    number: int


class Looked(Struct, frozen=True):
    """Rows for a look, as they may be shown. failed: why there are no more."""

    number: int
    frames: tuple[pl.DataFrame, ...]
    failed: str | None = None


class Trip(Struct, frozen=True):
    """The breaker of a step has opened in another process: that of its system opens here too."""

    step: str


class Shared(Struct, frozen=True):
    """A task's share. cut: what it had counted when it was cut; None for the share of its end. counts: what it has counted
    now. released: chunks that no later checkpoint will name. redo: files that the job fetches before it commits."""

    share: Share
    cut: Mapping[str, StepMetrics] | None
    counts: Mapping[str, StepMetrics]
    released: Sequence[str] = ()
    redo: Sequence[str] = ()


class Failed(Struct, frozen=True):
    """A task cannot go on."""

    failure: Fail


class Ask(Struct, frozen=True):
    """A task asks for a split. number: of the question."""

    number: int
    source: str
    task: str


class Answer(Struct, frozen=True):
    """The answer to a question; failed: why there is none."""

    number: int
    assigned: Assign | Wait | None = None
    failed: DataFlareError | None = None


class Want(Struct, frozen=True):
    """A source gives nothing more until a checkpoint has what it gave. awaiting: a task that awaits the commit itself."""

    awaiting: str | None = None


class TaskReport(Struct, frozen=True):
    """How a task is. doing: what it does now; None: it has ended. uncut: why it cannot be cut now."""

    view: TaskView
    counts: Mapping[str, StepMetrics]
    spent: Spent
    doing: Doing | None
    latency: Histogram | None
    uncut: str | None


class Report(Struct, frozen=True):
    """How the tasks of a worker are that did something since its last report. beside: what it counts that belongs to no task. degraded: by step that gives less than
    it should, why. rates_used_s: by step, how long it had the rate that it may have here, as a part of all of its rate. sent_bytes: to each
    other worker, by its number. held_back: steps whose breaker is open. process: None where it was told within the last second."""

    tasks: Sequence[TaskReport]
    beside: Mapping[str, StepMetrics]
    degraded: Mapping[str, str]
    rates_used_s: Mapping[str, float]
    sent_bytes: Mapping[int, int]
    held_back: Sequence[str] = ()
    process: ProcessView | None = None


class Told(Struct, frozen=True):
    """A notice for the run's user. what and arguments: as `Tell`."""

    what: str
    arguments: tuple[Any, ...]


class Ended(Struct, frozen=True):
    """All tasks of the worker have ended; failed: one of them failed. accused: another worker whose link was lost."""

    failed: BaseException | None = None
    accused: int | None = None


class Finish(Struct, frozen=True):
    """The attempt is over: close everything."""


class Closed(Struct, frozen=True):
    """Nothing of the attempt runs in this worker any more."""


def packed(order: Struct) -> bytes:
    """The bytes of an order. What cannot be sent is an InternalError that says what it was."""
    try:
        return pickle.dumps(order, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise InternalError(
            f"{type(order).__name__} cannot be sent to another process: {error}"
        ) from error


def refuse_unsendable(begin: Begin) -> None:
    """Raise ConfigError (E0437) for a step that exists only in this process, such as a function that is in no module."""
    for stage in begin.plan.stages:
        try:
            pickle.dumps(stage)
        except Exception as error:
            raise ConfigError(
                f"step '{stage.name}' cannot be sent to a worker: {error}",
                code="E0437",
                step=stage.steps[0] if stage.steps else stage.name,
                help="put its functions into a module beside the workflow, and name them in the step",
            ) from error


def unpacked(message: bytes) -> Any:
    """The order in a message of a side that has proved the token."""
    return pickle.loads(message)


def sendable(error: BaseException) -> BaseException:
    """The error, or one that says the same where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return InternalError(f"{type(error).__name__}: {error}")
    return error
