"""The options of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING

from msgspec import Struct, field

from dataflare.checkpoint.kept_chunks import KeptChunks
from dataflare.checkpoint.store import LocalStore, Storage
from dataflare.jobs.progress import Progress
from dataflare.jobs.result import RunResult
from dataflare.sdk.context import Policy

if TYPE_CHECKING:
    from dataflare.cluster.workers import Workers
    from dataflare.jobs.watching import Watch


class RunOptions(Struct, frozen=True):
    """home: the folder of state, checkpoints and history. accept_usual: rules that fail a run for what is not usual forget what
    they have learnt, and learn anew from this run. adopt: continue a lineage that another home
    wrote to the destinations. savepoint: the name of the savepoint to go on from. for_s: stop after this
    time. listener: receives the progress of the run.
    tell: reports the result to the user; the run is recorded as reported after that. end: called at once
    after that record, by the thread that wrote it: a process whose only work is the run ends here, because
    a process that is started again after a kill between the record and its end would run again. stdout:
    where `stdout` destinations print, in place of standard output; it is not closed. storage: makes the store
    of checkpoints from the workflow's folder and the lineage; called at each start and each restart. observers: each is
    entered when the run has its lock, and left before the result is told; they may ask the run on threads of their own. door:
    the same, entered before the plan is made. workers: processes that run its tasks, with `storage` a `SharedStore`; None:
    this process does. follows: there are as many tasks of a step as workers. run_id: None: a new one. kept: where state is
    beside its storage."""

    home: Path
    fresh: bool = False
    accept_changes: bool = False
    accept_usual: bool = False
    adopt: bool = False
    savepoint: str | None = None
    for_s: float | None = None
    listener: Callable[[Progress], None] | None = None
    policy: Policy | None = None
    tell: Callable[[RunResult], None] | None = None
    end: Callable[[RunResult], None] | None = None
    stdout: IO[str] | None = None
    storage: Callable[[Path, str], Storage] = LocalStore
    observers: Sequence[Callable[[Watch], AbstractContextManager[object]]] = ()
    door: Callable[[Watch], AbstractContextManager[object]] = nullcontext
    workers: Workers | None = None
    follows: bool = False
    run_id: str | None = None
    kept: KeptChunks = field(default_factory=KeptChunks)
