"""Who runs the tasks of an attempt: the worker of this process, or several in other processes.

The coordinator and the loop of an attempt see only this contract, so they are the same for both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from dataflare.checkpoint.store import Storage
from dataflare.engine.coordinator import Identity, Member
from dataflare.engine.hot_keys import KeyCounts
from dataflare.engine.messages import Control, Deploy
from dataflare.engine.metrics import JobMetrics
from dataflare.engine.pace import Pace
from dataflare.engine.pool import ThreadPool
from dataflare.engine.row_errors import RowErrors
from dataflare.engine.sampling import Sampling
from dataflare.planner.physical import PhysicalPlan
from dataflare.resilience.retry import Retries

if TYPE_CHECKING:
    from dataflare.engine.taps import Taps
    from dataflare.workflow.settings import Settings


class Hosted(Struct, frozen=True):
    """What a host is told of the attempt. plan, settings, identity and errors pickle; the rest is of this process. control: whom
    the tasks answer to. paces: by step, how fast it may go. sampling: which rows of sources go on. scratch: a folder for
    files that they need only while they live."""

    plan: PhysicalPlan
    settings: Settings
    identity: Identity
    errors: RowErrors
    retries: Retries
    scratch: Path
    store: Storage
    pool: ThreadPool
    metrics: JobMetrics
    control: Control
    paces: Mapping[str, Pace]
    sampling: Sampling


class TaskView(Struct, frozen=True):
    """A task at this moment. queued_rows: those that wait for it. rows_sent: by edge. keys: by edge, the most frequent keys of what it sends."""

    task: str
    stage: int
    queued_rows: int
    state_bytes: int
    rows_sent: Mapping[int, int]
    keys: Mapping[int, KeyCounts] = {}


class Host(Protocol):
    """Runs the tasks of one attempt."""

    async def deploy(self, specs: Sequence[Deploy]) -> Sequence[Member]:
        """Make all tasks, in the order of their descriptions. They do not run yet. Called once; `aclose` is called after
        an error too."""

    def lives(self) -> Sequence[Awaitable[None]]:
        """Let the tasks run. Each ends when some of them have ended, or raises the error of one."""

    def views(self) -> Sequence[TaskView]:
        """The tasks, as far as it is known here."""

    def queued_rows(self) -> int:
        """How many rows wait for all tasks. Asked a few times a second."""

    def leave(self) -> None:
        """The run stops: no wait for a system that fails holds it up."""

    def note_holding(self) -> None:
        """Warn, in the counts of tasks, of splits for which event time has waited until the end."""

    @property
    def taps(self) -> Taps:
        """Looks at the rows on the edges."""

    async def aclose(self) -> None:
        """Let every task close what it holds; an error there is not worth losing another for."""


HostMaker = Callable[[Hosted], Host]
