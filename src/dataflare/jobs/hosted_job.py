"""A job in a process of its own: what lives in the actor that a cluster begins for it.

Always true: the run begins as it was ordered (`--fresh`, `--from`) once, also if its process is lost: another process with the
same order goes on from what the first one recorded, under the same run id; and a run whose end is recorded does not begin again.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from dataflare.checkpoint.files import workflow_folder
from dataflare.checkpoint.runs import RunLog
from dataflare.checkpoint.shared_store import SharedStore
from dataflare.cluster.on_ray import KeptWorkers
from dataflare.cluster.orders import sendable
from dataflare.errors import ConfigError, DataFlareError, RunError, SystemError_
from dataflare.jobs.door import door_of
from dataflare.jobs.lease import Lease
from dataflare.jobs.on_workers import follows_workers, for_workers
from dataflare.jobs.options import RunOptions
from dataflare.jobs.progress import Progress
from dataflare.jobs.result import RunResult
from dataflare.jobs.run import run
from dataflare.jobs.watching import NO_ROWS, Watch

if TYPE_CHECKING:
    from dataflare.cluster.place import Place
    from dataflare.workflow.model import Workflow

Observers = Callable[[], Sequence[Callable[[Watch], AbstractContextManager[object]]]]
ALREADY_RUNNING = "E0801"
_SINCE_S = 0.5
_ATTENDED_S = 10.0
"""A command that has not asked for so long is gone: the result is recorded without it."""
_LOCK_S, _PAUSE_S = 60.0, 0.5
"""So long a job waits for the lock of its own process that was lost: it may be on a machine that is cut off."""
_MESSAGES_MAX = 10_000
_OF_A_MACHINE = {"PATH", "HOME", "TMPDIR", "USER", "LOGNAME", "HOSTNAME", "PWD", "SHLVL", "_", "VIRTUAL_ENV"}  # fmt: skip


class JobOrder(Struct, frozen=True):
    """What a command wants. options: those of the run that are plain data. observers: makes those that were asked for. folder: the
    working directory, if it is there. environment: its variables. attended: a command waits for the result."""

    workflow: Workflow
    options: RunOptions
    observers: Observers
    folder: Path
    environment: Mapping[str, str]
    attended: bool

    def packed(self) -> bytes:
        """Raises ConfigError (E0437) for a workflow that exists only in this process."""
        try:
            return pickle.dumps(self, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise ConfigError(
                f"the workflow cannot be sent to another process: {error}",
                code="E0437",
                help="put its functions into a module beside the workflow, and name them in the step",
            ) from error


class Told(Struct, frozen=True):
    """What a job said. process: whose; another one begins to count again. number: of the next message. progress: the last, and those
    with messages, in order. status: as `RunView` says."""

    process: int
    number: int
    status: str
    progress: Sequence[Progress]
    result: RunResult | None = None
    error: BaseException | None = None


def environment() -> dict[str, str]:
    """The variables of this process that a job on another machine may have."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_A_MACHINE and not name.startswith(("RAY_", "LD_", "LC_"))
    }


class HostedJob:
    """Is a `cluster.ray_actors.Hosted`. again: a process of this job was lost before."""

    def __init__(self, order: bytes, job: str, place: Place, again: bool) -> None:
        self._order, self._again = order, again
        self._workers = KeptWorkers(place, job)
        self._lease = Lease(self._workers)
        self._changed = threading.Condition()
        self._messages: list[Progress] = []
        self._left_out = 0
        self._latest: Progress | None = None
        self._stopped = self._over = self._told = False
        self._result: RunResult | None = None
        self._error: BaseException | None = None
        self._asked_at = time.monotonic()
        self._attended = False
        threading.Thread(target=self._live, name="dataflare-job").start()

    # -- asked by the command ----------------------------------------------------------------------

    def since(self, number: int) -> bytes:
        """What there is from this message on; waits for a moment until there is something. A pickled `Told`."""
        self._asked_at = time.monotonic()
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._messages) + self._left_out > number or self._is_over, _SINCE_S
            )
            # Those that were left out are in the log of the run.
            new = self._messages[max(0, number - self._left_out) :]
            if self._latest is not None and self._latest not in new:
                new.append(replace(self._latest, message=None))
            told = Told(
                os.getpid(),
                len(self._messages) + self._left_out,
                self._lease.watch.status if self._lease.watch is not None else "starting",
                new,
                self._result,
                self._error,
            )
        return pickle.dumps(told)

    @property
    def _is_over(self) -> bool:
        return self._result is not None or self._error is not None

    def stop(self) -> None:
        """Take a checkpoint and end."""
        self._stopped = True
        watch = self._lease.watch
        if watch is not None:
            with suppress(TimeoutError, RuntimeError):
                watch.on_loop(watch.interrupt)

    def scale(self, workers: int | None, parallelism: int | None) -> bytes:
        """Give the run another size. Returns when its tasks have it: what became of it as JSON, or the error, pickled."""
        watch = self._lease.watch
        answer: object
        try:
            if watch is None:
                raise RunError("the run has no rows now", code=NO_ROWS, help="ask again later")
            answer = watch.scale(workers, parallelism).result().to_json()
        except DataFlareError as error:
            answer = sendable(error)
        except (TimeoutError, RuntimeError):
            answer = SystemError_(
                "the run does not answer", code="E0607", help="see dataflare status --cluster"
            )
        return pickle.dumps(answer)

    def told(self) -> None:
        """The command has shown the result. Returns when that is recorded."""
        with self._changed:
            self._told = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._over, _ATTENDED_S)

    # -- the run -----------------------------------------------------------------------------------

    def _live(self) -> None:
        with self._lease.renewed():
            try:
                order = self._opened()
                self._attended = order.attended
                options = self._options(order)
                if options is not None:
                    self._run(order.workflow, options)
            except BaseException as error:
                with self._changed:
                    self._error = sendable(error)
                    self._changed.notify_all()
                self._wait_for_command()
            with self._changed:
                self._over = True
                self._changed.notify_all()
        self._workers.close()

    def _opened(self) -> JobOrder:
        try:
            order = pickle.loads(self._order)
            assert isinstance(order, JobOrder)
        except Exception as error:
            raise ConfigError(
                f"the job cannot read what its command says: {type(error).__name__}: {error}",
                code="E0436",
                help="install the packages and modules of the workflow on every node of the cluster",
            ) from error
        os.environ.update(order.environment)
        with suppress(OSError):
            os.chdir(order.folder)
        return order

    def _options(self, order: JobOrder) -> RunOptions | None:
        """Those of this process. None if the run has ended."""
        options = order.options
        if self._again:
            log = RunLog(workflow_folder(options.home, order.workflow.name))
            assert options.run_id is not None
            record = log.read(options.run_id)
            if record is not None and record.ended_at is not None:
                return None
            if record is not None:
                options = replace(options, fresh=False, adopt=False, savepoint=None)
                if options.for_s is not None:
                    began = _seconds(record.started_at)
                    options = replace(options, for_s=max(0.0, began + options.for_s - time.time()))
        return replace(
            options,
            listener=self._listen,
            tell=self._tell,
            observers=order.observers(),
            door=lambda watch: self._at_door(watch, options.home),
            workers=self._workers,
            storage=SharedStore,
        )

    def _run(self, workflow: Workflow, options: RunOptions) -> None:
        until = time.monotonic() + (_LOCK_S if self._again else 0.0)
        options = replace(options, follows=follows_workers(workflow))
        workflow = for_workers(workflow, self._workers.start())
        while True:
            try:
                result = run(workflow, options)
            except RunError as error:
                if error.code != ALREADY_RUNNING or time.monotonic() >= until:
                    raise
                time.sleep(_PAUSE_S)
                continue
            if self._result is None:
                self._tell(result)
            return

    @contextmanager
    def _at_door(self, watch: Watch, home: Path) -> Iterator[None]:
        self._lease.watch = watch
        if self._again:
            watch.warn(["the process of the job was lost, and another one goes on"])
        if self._stopped:
            watch.interrupt()
        with door_of(watch, home):
            yield

    def _listen(self, progress: Progress) -> None:
        with self._changed:
            self._latest = progress
            if progress.message is not None:
                self._messages.append(progress)
                if len(self._messages) > _MESSAGES_MAX:
                    del self._messages[0]
                    self._left_out += 1
                self._changed.notify_all()

    def _tell(self, result: RunResult) -> None:
        """The result is there. Returns when the command has shown it, or is gone."""
        if result.error is not None:
            failed = sendable(result.error)
            assert isinstance(failed, DataFlareError)
            result = replace(result, error=failed)
        with self._changed:
            self._result = result
            self._changed.notify_all()
        self._wait_for_command()

    def _wait_for_command(self) -> None:
        with self._changed:
            while self._is_attended() and not self._told:
                self._changed.wait(_PAUSE_S)

    def _is_attended(self) -> bool:
        return self._attended and time.monotonic() - self._asked_at < _ATTENDED_S


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
