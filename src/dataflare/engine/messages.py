"""What a coordinator and its tasks tell each other: plain data, so that it may cross a network.

coordinator to task    Deploy      run this
                       Checkpoint  cut here
task to coordinator    Share       what belongs to an epoch
                       Fail        the task cannot go on
both ways              Assign      a request for a split, and the split
                                   or Wait: none is there, and some may be found
coordinator to task    Opened      the last split of a source was given to a reader
                       Found       ask for a split again
                       Committed   an epoch is committed, except these rows
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from dataflare.model.new_fields import NewFields
from dataflare.model.progress import Barrier, Position, Split

if TYPE_CHECKING:
    from dataflare.checkpoint.manifest import OperatorSnapshot, SplitState
    from dataflare.planner.physical import Stage
    from dataflare.sdk.destination import Committable, RefusedRow


class Inlet(Struct, frozen=True):
    """Where rows come from. edge: its id in the plan; sender: the task; port: the input they belong to. origins: the
    tasks of sources that they come from in the end."""

    edge: int
    sender: str
    port: int = 0
    origins: frozenset[str] = frozenset()


class Outlet(Struct, frozen=True):
    """Where rows go. exchange: forward, hash (by keys), gather. tasks: the receivers by subtask; a
    forward or gather outlet has one."""

    edge: int
    exchange: str
    keys: tuple[str, ...]
    tasks: tuple[str, ...]


class Deploy(Struct, frozen=True):
    """A task, described. It pickles.

    restored: a writer's share of the checkpoint that the run goes on from. state: the shares of all
    subtasks of an operator. epoch: the last one cut before.
    """

    task: str
    stage: Stage
    subtask: int
    inlets: tuple[Inlet, ...] = ()
    outlets: tuple[Outlet, ...] = ()
    restored: Committable | None = None
    state: tuple[OperatorSnapshot, ...] = ()
    epoch: int = 0


class Checkpoint(Struct, frozen=True):
    """Cut at this barrier. stops: nothing is read after it."""

    barrier: Barrier
    stops: bool = False


class Share(Struct, frozen=True):
    """What of a task belongs to an epoch. epoch: None: the task has ended, and this
    share counts for every later epoch. It contains the task's state."""

    task: str
    epoch: int | None
    splits: tuple[SplitState, ...] = ()
    state: OperatorSnapshot | None = None
    committable: Committable | None = None


class Fail(Struct, frozen=True):
    """The task cannot go on: an error, or fields that the columns of its source lack. may_cut: whether it
    can still be cut where it stands. step: of the fields, where it is a stream of
    the stage's."""

    task: str
    error: BaseException | None = None
    new_fields: Sequence[NewFields] = ()
    may_cut: bool = True
    step: str = ""


class Assign(Struct, frozen=True):
    """A split to read. position: where to begin; None is its beginning. event_time_us: the greatest event
    time before it."""

    split: Split
    position: Position | None = None
    event_time_us: int | None = None


class Wait(Struct, frozen=True):
    """No split is left, and the source may find others: `Found` says when to ask again."""


class Found(Struct, frozen=True):
    """A source has found splits, or says that there will be none: ask again."""

    source: str


class Opened(Struct, frozen=True):
    """Every split of a source is read or was read: none holds back the watermark unseen."""

    source: str


class Committed(Struct, frozen=True):
    """An epoch is committed. refused: the rows that the system refused then."""

    epoch: int
    refused: tuple[RefusedRow, ...] = ()


class Control(Protocol):
    """A task's way to the coordinator."""

    def share(self, share: Share) -> None:
        """The task's part of an epoch is durable."""

    def fail(self, failure: Fail) -> None:
        """The task cannot go on."""

    async def assign(self, source: str, task: str) -> Assign | Wait | None:
        """The next split of a source for one of its tasks, or None when none is left."""

    def want_checkpoint(self) -> None:
        """A source gives nothing more until a checkpoint has what it gave."""

    def want_commit(self, task: str) -> None:
        """A task has nothing more to do than to hear that what it gave is committed."""
