"""Give a run another size while it goes on: more or fewer workers, more or fewer tasks.

What the new size needs is made while rows flow: workers are placed, and the plan is made. Then the attempt takes a checkpoint after
which its sources read nothing, and the next attempt goes on from it with the new size. Key groups move as they do between
two runs.

Always true:
- no row is read twice, and it does not count as a failure;
- a size that is refused, or that cannot begin, leaves the run with the size that it has.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from dataflare.engine.deploy import STATE_SHARE
from dataflare.errors import Blame, DataFlareError, Retry, RunError
from dataflare.sdk.threads import completed
from dataflare.workflow.settings import PARALLELISM_MAX, WORKERS_MAX

if TYPE_CHECKING:
    from dataflare.cluster.workers import Workers
    from dataflare.engine.attempt import Attempt
    from dataflare.planner import Plan
    from dataflare.workflow.model import Workflow

CANNOT_SCALE = "E0834"


class Size(Struct, frozen=True):
    """workers: processes; None where the run is in one. parallelism: into how many tasks a step is cut."""

    workers: int | None
    parallelism: int


class Scaled(Struct, frozen=True):
    """What became of a request. pause_s: from the barrier until the tasks of the new size run. epoch: the checkpoint between the
    two."""

    before: Size
    now: Size
    pause_s: float = 0.0
    epoch: int | None = None

    def to_json(self) -> dict[str, Any]:
        value = to_builtins(self)
        assert isinstance(value, dict)
        return value


class _Change:
    """A size that is asked for. plan: made for it, out of the workflow of plan `base`. taken: the attempts have it."""

    def __init__(self, before: Size, now: Size, base: Plan, plan: Plan) -> None:
        self.before, self.now, self.base, self.plan = before, now, base, plan
        self.taken = False
        self.former: Plan | None = None
        self.began_s: float | None = None
        self.epoch: int | None = None
        self.answer: asyncio.Future[Scaled] = asyncio.get_running_loop().create_future()


def wanted(
    before: Size,
    workers: int | None,
    parallelism: int | None,
    *,
    follows: bool,
    state_bytes: int,
    memory: int,
) -> Size:
    """The size that a request means. follows: there are as many tasks as workers, unless the request says another number.
    state_bytes: in memory, of all tasks. memory: the budget of a worker. Raises RunError (E0834). Pure."""
    if workers is None and parallelism is None:
        raise _refused("no size was given", "say --workers N, --parallelism N, or both")
    if workers is not None and before.workers is None:
        raise _refused(
            "the run has no workers: it is in one process",
            "use --parallelism, or stop it and run it with --cluster",
        )
    if workers is not None and not 1 <= workers <= WORKERS_MAX:
        raise _refused(f"a run has 1 to {WORKERS_MAX} workers, not {workers}", "use such a number")
    if parallelism is not None and not 1 <= parallelism <= PARALLELISM_MAX:
        help = "use such a number"
        raise _refused(f"a step has 1 to {PARALLELISM_MAX} tasks, not {parallelism}", help)
    now_workers = before.workers if workers is None else workers
    tasks = parallelism
    if tasks is None:
        is_new = follows and workers is not None
        tasks = min(workers, PARALLELISM_MAX) if is_new and workers else before.parallelism
    if before.workers is not None and now_workers is not None and now_workers < before.workers:
        needed = workers_needed(state_bytes, memory)
        if now_workers < min(needed, before.workers):
            raise _refused(
                f"{now_workers} workers have no room for the state: {state_bytes:,} bytes are in memory, and a worker has "
                f"{int(memory * STATE_SHARE):,} bytes for state",
                f"keep at least {min(needed, before.workers)} workers, or raise settings.resources.memory",
            )
    return Size(now_workers, tasks)


def workers_needed(state_bytes: int, memory: int) -> int:
    """How many workers have room for the state. memory: the budget of each."""
    return max(1, math.ceil(state_bytes / (memory * STATE_SHARE)))


class Scaling:
    """Of one run. workers: its processes, if it has some. follows: there are as many tasks as workers. planned: makes a plan of the
    run's workflow with another number of tasks."""

    def __init__(
        self,
        workers: Workers | None,
        follows: bool,
        planned: Callable[[Workflow], Awaitable[Plan]],
    ) -> None:
        self._workers, self._follows, self._planned = workers, follows, planned
        self._change: _Change | None = None
        self._is_busy = self._has_ended = False
        self._asking: set[asyncio.Task[Scaled]] = set()
        self._attempt: Attempt | None = None
        self.has_taken = False

    def size(self, workflow: Workflow) -> Size:
        """What the run has now."""
        workers = self._workers.count if self._workers is not None else None
        return Size(workers, workflow.settings.parallelism)

    async def to(
        self,
        workflow: Workflow,
        plan: Plan | None,
        state_bytes: int,
        workers: int | None,
        parallelism: int | None,
        *,
        keep_asking: bool = False,
    ) -> Scaled:
        """Give the run another size, and wait until its tasks have it. workflow and plan: that the run has now. keep_asking: nodes are
        asked of the cluster also where they come too late. Raises RunError (E0834) and what the new size fails with; the run goes on as it was then."""
        asking = asyncio.current_task()
        assert asking is not None
        if self._has_ended or plan is None:
            raise _refused("it has not begun to read, or has ended", "ask a run that reads rows")
        if self._is_busy:
            raise _refused("it is being scaled already", "ask again later")
        self._is_busy = True
        self._asking.add(asking)
        try:
            return await self._to(
                workflow, plan, state_bytes, workers, parallelism, keep_asking=keep_asking
            )
        except asyncio.CancelledError:
            if self._has_ended:
                raise _ended() from None
            raise
        finally:
            self._is_busy = False
            self._asking.discard(asking)

    async def _to(
        self,
        workflow: Workflow,
        plan: Plan,
        state_bytes: int,
        workers: int | None,
        parallelism: int | None,
        *,
        keep_asking: bool,
    ) -> Scaled:
        before = self.size(workflow)
        now = wanted(
            before,
            workers,
            parallelism,
            follows=self._follows,
            state_bytes=state_bytes,
            memory=workflow.settings.resources.memory,
        )
        if plan.stages.commits_wait:
            raise _refused(
                "it takes no checkpoint before its end, because it commits all rows then",
                "stop it, and run it again with another settings.parallelism or --cluster",
            )
        if now == before:
            return Scaled(before, now)
        try:
            if self._workers is not None and now.workers is not None:
                await self._workers.want(now.workers)
                await self._workers.hold(max(now.workers, before.workers or 0))
            planned = await self._planned(with_parallelism(workflow, now.parallelism))
            self._change = change = _Change(before, now, plan, planned)
            if self._attempt is not None:
                self._attempt.resize()
            return await change.answer
        finally:
            self._change = None
            if self._workers is not None:
                if not keep_asking:
                    await completed(self._workers.want(self._workers.count))
                await completed(self._workers.release())

    # -- asked by the loop of the run ------------------------------------------------------------------

    async def take(self, workflow: Workflow, plan: Plan) -> tuple[Workflow, Plan] | None:
        """The workflow and the plan of the next attempt, if another size is wanted."""
        change = self._change
        if change is None or change.taken or change.answer.done():
            return None
        workflow = with_parallelism(workflow, change.now.parallelism)
        # New columns or tables may have come since the plan was made.
        planned = change.plan if plan is change.base else await self._planned(workflow)
        self.has_taken = change.taken = True
        change.former = plan
        if self._workers is not None and change.now.workers is not None:
            self._workers.use(change.now.workers)
        return workflow, planned

    def watch_over(self, attempt: Attempt | None) -> None:
        """The attempt that is under way now."""
        self._attempt = attempt
        if attempt is not None and self._change is not None and not self._change.taken:
            attempt.resize()

    def cut(self, began_s: float, epoch: int) -> None:
        """The attempt with the former size has ended at this checkpoint. began_s: when that began, of `time.monotonic`."""
        if self._change is not None:
            self._change.began_s, self._change.epoch = began_s, epoch

    def begun(self) -> None:
        """The tasks of an attempt run."""
        change = self._change
        if change is not None and change.taken and not change.answer.done():
            now = time.monotonic()
            pause_s = now - (change.began_s if change.began_s is not None else now)
            change.answer.set_result(
                Scaled(change.before, change.now, round(pause_s, 3), change.epoch)
            )

    def give_up(self, workflow: Workflow, error: DataFlareError) -> tuple[Workflow, Plan] | None:
        """An attempt has failed. Where it was the first one with a new size, and had not begun, the workflow and the plan of the size before;
        who asked is told the error."""
        change = self._change
        if change is None or not change.taken or change.answer.done():
            return None
        if self._workers is not None and change.before.workers is not None:
            self._workers.use(change.before.workers)
        error.notes.append("the run goes on with the size that it had")
        change.answer.set_exception(error)
        assert change.former is not None
        return with_parallelism(workflow, change.before.parallelism), change.former

    async def aclose(self) -> None:
        """The run has ended: who still waits is told."""
        self._has_ended = True
        if self._change is not None and not self._change.answer.done():
            self._change.answer.set_exception(_ended())
        elif self._change is None:
            for asking in self._asking:
                asking.cancel()
        if self._asking:
            await completed(asyncio.gather(*self._asking, return_exceptions=True))


def with_parallelism(workflow: Workflow, parallelism: int) -> Workflow:
    """The workflow with so many tasks of each step."""
    settings = workflow.settings.model_copy(update={"parallelism": parallelism})
    return replace(workflow, settings=settings)


def _ended() -> RunError:
    return _refused("it has ended before it had its new size", "see dataflare runs")


def _refused(reason: str, help: str) -> RunError:
    return RunError(
        f"the run cannot be scaled: {reason}",
        code=CANNOT_SCALE,
        blame=Blame.USER,
        retry=Retry.NEVER,
        help=help,
    )
