"""What differs between the tasks of a stage that reads, one that remembers and one that writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from dataflare.engine.messages import Committed, Share
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Barrier

if TYPE_CHECKING:
    from dataflare.engine.task import Task


class Body(ABC):
    """What a task does with the rows of its stage.

    cuts_at_once: its share of an epoch is known without waiting, so that a barrier may be answered
    in the middle of a wait. may_cut: it stands where a root may be cut. rests_until: it is told no watermark before,
    by the clock of the event loop. last_read_s: how long a cut that stops the run waits for the read under way,
    because what that takes could not be read again. joins_batches: small batches that wait for it may come as one.
    """

    cuts_at_once: ClassVar[bool] = True
    joins_batches: ClassVar[bool] = False
    may_cut: bool = True
    rests_until: float = 0.0
    last_read_s: float = 0.0
    task: Task

    @property
    def tick_s(self) -> float | None:
        """How many seconds lie between two calls of `tick`; None: it is not called."""
        return None

    def begin(self) -> None:
        """Every task is there; nothing has been sent yet."""

    async def tick(self) -> None:
        """The processing time has moved. Called between two events, while there are inputs."""

    def takes_at_once(self, batch: SharedDataBatch) -> bool:
        """Whether `rows` mostly needs no waiting for this batch, so that the task in front may call it in place."""
        return False

    async def rows(self, port: int, batch: SharedDataBatch) -> float:
        """Take a batch of an input; how many seconds of work it was."""
        raise NotImplementedError

    async def time(self, event_time_us: int) -> int:
        """The watermark of all inputs has come to this time; gives that of the rows which it sends."""
        return event_time_us

    async def ended(self, port: int) -> None:
        """Nothing more comes from an input."""

    @abstractmethod
    async def finish(self) -> None:
        """All inputs have ended (or there are none): do what is left to do."""

    def freeze(self, epoch: int) -> Share | Callable[[], Share]:
        """The share of an epoch, or a blocking call that makes it durable and gives it. Where
        `cuts_at_once`."""
        raise NotImplementedError

    async def settle(self) -> None:
        """What must be sent before the barrier. Where not `cuts_at_once`."""

    async def prepare(self, barrier: Barrier) -> Share:
        """The share of an epoch. Where not `cuts_at_once`."""
        raise NotImplementedError

    def asked(self) -> None:
        """A barrier is on its way."""

    def opened(self) -> None:
        """Every split of its source is read or was read."""

    def found(self) -> None:
        """Its source has found splits, or will find none."""

    @property
    def awaits_commit(self) -> bool:
        """Whether more may have to be sent when what it prepared is committed."""
        return False

    def committed(self, committed: Committed) -> None:
        """An epoch is committed. Where its destination refuses rows at the commit."""

    def holding(self) -> str | None:
        """Why event time cannot move on here, for the user."""
        return None

    def uncut(self) -> str | None:
        """Why it cannot be cut now, for the user."""
        return None

    def last_share(self) -> Share:
        """The share of every epoch from the task's end on."""
        return Share(self.task.id, None)

    def cancel(self) -> None:
        """No step needs its rows any more."""
        for port in {inlet.port for inlet in self.task.spec.inlets}:
            self.task.inbox.cancel(port)

    async def aclose(self) -> None:
        """Release what it holds. Called once, after the task has ended or was cancelled."""
