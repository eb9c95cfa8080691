"""The shards of a backfill as tasks with priorities: begun, tried again, set aside, and gone on with after a kill.

Always true: the shards of a backfill have the same names whenever it is begun with the same workflow and bounds, so one
that was killed goes on with what is left; a shard that has finished is not run again. `fresh` makes other names, whose
number is kept in a file, so that the next command without it goes on with the newest.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, field

from dataflare.checkpoint.files import workflow_folder, write_whole, writing
from dataflare.checkpoint.home import BACKFILLS
from dataflare.checkpoint.lock import RunLock
from dataflare.checkpoint.runs import utc_text
from dataflare.errors import Blame, DataFlareError, RunError, WorkflowError
from dataflare.jobs.backfill.running import (
    PARAMETERS,
    Loading,
    ShardResult,
    ShardRun,
    parameters,
    run_shard,
)
from dataflare.jobs.backfill.shards import REFUSED, Kind, Shard, kind_of, shards_of
from dataflare.jobs.task_scheduler import Retries, Task, TaskScheduler
from dataflare.planner.bind import bind_workflow
from dataflare.planner.families import expanded
from dataflare.planner.graph import DestinationNode, Graph, SourceNode, StatefulNode
from dataflare.sdk.context import Policy
from dataflare.sdk.worker_pool import WorkerLost, WorkerPool
from dataflare.workflow.model import Workflow

_NAME_MAX = 40
_STEPS = "steps.json"
_RETRIES = Retries(attempts_max=3, wait_s=1.0)


class Options(Struct, frozen=True):
    """begin, end, by: of `--from`, `--to` and `--shards`. source, column: the rows are cut by; None: see `Backfill`.
    parallel: shards that run at a time. newest_first: their order. fresh: forget what an earlier backfill of this kind
    has done. accept_changes: run the shards that are left, though steps have changed since the others were run."""

    begin: str | None
    end: str | None
    by: str
    source: str | None = None
    column: str | None = None
    parallel: int = 1
    newest_first: bool = False
    fresh: bool = False
    accept_changes: bool = False
    retries: Retries = _RETRIES
    policy: Policy | None = None


class ShardEnded(Struct, frozen=True):
    """An attempt of a shard ended. done, of: how many shards have finished, of how many."""

    shard: Shard
    result: ShardResult
    state: str
    attempt: int
    done: int
    of: int


class Report(Struct, frozen=True):
    """How a backfill ended. before: shards that earlier backfills had finished. set_aside: by name of shard, its last
    error."""

    id: str
    status: Literal["finished", "failed", "interrupted"]
    shards: int
    done: int
    before: int
    set_aside: dict[str, str]
    rows_in: int
    rows_out: int
    dead_letters: int
    duration_s: float
    warnings: tuple[str, ...] = ()

    @property
    def exit_status(self) -> int:
        return {"finished": 0, "failed": 1, "interrupted": 130}[self.status]

    def to_json(self) -> dict[str, Any]:
        return {
            "backfill": self.id,
            "status": self.status,
            "shards": self.shards,
            "done": self.done,
            "done_before": self.before,
            "set_aside": self.set_aside,
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "dead_letters": self.dead_letters,
            "duration_s": round(self.duration_s, 3),
            "warnings": list(self.warnings),
        }


class Backfill:
    """A workflow, and the parts in which it is run.

    Rows are cut by `column`; else by the parameters `from` and `to` of the workflow, if it has both; else by the column
    of the source's `event_time` or `incremental`. Raises WorkflowError (E0131) for a workflow that cannot be cut, and for a
    destination that a shard would overwrite.
    """

    def __init__(self, loading: Loading, home: Path, options: Options) -> None:
        self._options, self._loading = options, loading
        self.shards = shards_of(options.begin, options.end, options.by)
        first = self.shards[0]
        parameter = self._parameter() if options.column is None else None
        uses_parameters = parameter is not None
        if uses_parameters and first.bucket is not None:
            raise _refused(
                "shards by hash need --column", "name the column whose values are hashed"
            )
        workflow = loading.load(() if parameter is None else parameters(first, parameter))
        self.workflow = workflow
        self._source = _source_of(workflow, options.source)
        column = None if uses_parameters else options.column or _column_of(workflow, self._source)
        graph = asyncio.run(_bound(workflow, options.policy))
        self.warnings = [*_refuse(graph, self._source)]
        self.parallel = options.parallel
        alone = _writes_alone(graph)
        if alone is not None and options.parallel > 1:
            self.parallel = 1
            self.warnings.append(
                f"shards run one after the other, because the file of the destination '{alone}' has one writer at a time"
            )
        kind = _kind(graph, self._source, column, first) if column is not None else None
        self.column = column
        whole = self._whole()
        folder = workflow_folder(home, workflow.name) / BACKFILLS
        self._generation_file = folder / f"{_named(whole)}.fresh"
        self._generation = _generation(self._generation_file) + options.fresh
        self.id = _named([*whole, self._generation] if self._generation else whole)
        self.folder = folder / self.id
        self._runs = {
            shard.name: ShardRun(
                loading, shard, f"{workflow.name[:_NAME_MAX]}-{self.id}-{shard.name}",
                self.folder / shard.name, self._source, column, kind, parameter or "", options.policy,
                options.accept_changes,
            )
            for shard in self.shards
        }  # fmt: skip

    def run(self, tell: Callable[[ShardEnded], None]) -> Report:
        """Run all shards that have not finished. tell: called for each attempt that ended. An interrupt ends those
        that run; they go on from their checkpoints the next time. Raises RunError (E0801) if the same backfill runs, and
        (E0803) if steps have changed since some of its shards were run."""
        with RunLock(self.folder, f"backfill {self.id}", utc_text(time.time())):
            self._note_steps()
            if self._options.fresh:
                with writing("the number of fresh beginnings"):
                    write_whole(self._generation_file, str(self._generation).encode())
            return _Running(self, tell).run()

    def _parameter(self) -> str | None:
        """The type of the parameters of a shard, which may have no default; None if the workflow has none."""
        try:
            workflow = self._loading.load()
        except DataFlareError:
            begin = self._options.begin or ""
            workflow = self._loading.load([(name, begin) for name in PARAMETERS])
        if not set(PARAMETERS) <= set(workflow.params):
            return None
        return workflow.params[PARAMETERS[0]].type.name

    def _whole(self) -> list[object]:
        """The same for the same cut of the same source."""
        options = self._options
        return [options.begin, options.end, options.by, self._source, self.column]

    def _note_steps(self) -> None:
        """Keep the fingerprints of the steps with which the shards are run. The shards that were run would have other rows
        than those that are left, and where all were run again, what they appended would be there twice."""
        steps = {
            step.name: self.workflow.fingerprint_of(step.name) for step in self.workflow.steps()
        }
        file = self.folder / _STEPS
        kept = json.loads(file.read_bytes()) if file.exists() else steps
        changed = [name for name in {**kept, **steps} if kept.get(name) != steps.get(name)]
        begun = sum((self.folder / name).exists() for name in self._runs)
        if changed and begun and not self._options.accept_changes:
            raise RunError(
                f"step '{changed[0]}' has changed since {begun} of {len(self.shards)} shards were begun",
                code="E0803",
                blame=Blame.USER,
                help="--accept-changes runs the shards that are left with the steps of now; --fresh runs all of them again",
            )
        with writing("the steps of the backfill"):
            write_whole(file, json.dumps(steps).encode())


class _Running(Struct):
    backfill: Backfill
    tell: Callable[[ShardEnded], None]
    results: list[ShardResult] = field(default_factory=list)
    before: int = 0

    def run(self) -> Report:
        backfill, options = self.backfill, self.backfill._options
        started = time.monotonic()
        scheduler = TaskScheduler(options.retries)
        for number, shard in enumerate(backfill.shards):
            if backfill._runs[shard.name].has_finished():
                self.before += 1
            else:
                scheduler.submit(shard.name, priority=number if options.newest_first else -number)
        pool = WorkerPool(backfill.parallel)
        interrupted = False
        try:
            self._all(scheduler, pool)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            pool.close(wait=False)
        tasks = list(scheduler.tasks())
        set_aside = {each.id: each.error or "" for each in tasks if each.state == "set_aside"}
        return Report(
            backfill.id,
            "interrupted" if interrupted else "failed" if set_aside else "finished",
            len(backfill.shards),
            self.before + scheduler.counts()["done"],
            self.before,
            set_aside,
            sum(each.rows_in for each in self.results),
            sum(each.rows_out for each in self.results),
            sum(each.dead_letters for each in self.results),
            time.monotonic() - started,
            tuple(dict.fromkeys(warning for each in self.results for warning in each.warnings)),
        )

    def _all(self, scheduler: TaskScheduler, pool: WorkerPool) -> None:
        backfill = self.backfill
        running: dict[Future[ShardResult], Task] = {}
        while not scheduler.is_idle:
            while len(running) < backfill.parallel:
                task = scheduler.take("", time.monotonic())
                if task is None:
                    break
                running[pool.submit(run_shard, backfill._runs[task.id])] = task
            due = scheduler.next_due()
            wait_s = None if due is None else max(0.0, due - time.monotonic())
            if not running:
                time.sleep(wait_s or 0.0)
                continue
            done, _ = wait(running, wait_s, FIRST_COMPLETED)
            for future in done:
                self._ended(scheduler, running.pop(future), future)

    def _ended(self, scheduler: TaskScheduler, task: Task, future: Future[ShardResult]) -> None:
        backfill = self.backfill
        shard_run = backfill._runs[task.id]
        try:
            result = future.result()
        except WorkerLost as lost:
            result = ShardResult("failed", error=f"its process {lost.message}")
        if shard_run.has_finished():
            scheduler.finished(task.id, task.attempt)
        else:
            error = result.error or f"its run ended with the status {result.status}"
            scheduler.failed(
                task.id, task.attempt, error, time.monotonic(), is_final=result.is_final
            )
        self.results.append(result)
        state, counts = scheduler.status(task.id).state, scheduler.counts()
        done, of = self.before + counts["done"], len(backfill.shards)
        self.tell(ShardEnded(shard_run.shard, result, state, task.attempt, done, of))


def _named(whole: list[object]) -> str:
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:8]


def _generation(file: Path) -> int:
    """How often a backfill was begun anew."""
    try:
        return int(file.read_bytes())
    except FileNotFoundError:
        return 0


async def _bound(workflow: Workflow, policy: Policy | None) -> Graph:
    return await bind_workflow(await expanded(workflow, policy=policy), policy=policy)


def _source_of(workflow: Workflow, name: str | None) -> str:
    read = {ref.step for step in workflow.steps() for ref in step.inputs}
    names = [each for each in workflow.sources if each in read]
    if name is not None:
        if name not in names:
            raise _refused(f"no step reads a source '{name}'", f"name one of {', '.join(names)}")
        return name
    if len(names) != 1:
        raise _refused(
            f"the workflow reads {len(names)} sources: {', '.join(names)}",
            "name the one that is cut with --source; the others are read whole for each shard",
        )
    return names[0]


def _column_of(workflow: Workflow, source: str) -> str:
    step = workflow.sources[source]
    if step.event_time is not None:
        return str(step.event_time.column)
    incremental = step.config.get("incremental")
    if isinstance(incremental, dict) and "column" in incremental:
        return str(incremental["column"])
    raise _refused(
        f"nothing says by which column the rows of '{source}' are cut",
        "name it with --column, or give the workflow the parameters from and to",
    )


def _kind(graph: Graph, source: str, column: str, shard: Shard) -> Kind | None:
    nodes = [each for each in graph if isinstance(each, SourceNode) and each.step == source]
    node = nodes[0]
    if len(nodes) > 1 or len(node.outputs) > 1:
        raise _refused(
            f"the source '{source}' has many tables", "name one table in its config, with --set"
        )
    if column not in node.schema:
        raise _refused(
            f"the source '{source}' has no column '{column}'",
            f"name one of {', '.join(node.schema.names)}",
        )
    kind = kind_of(node.schema[column])
    if kind is None and shard.has_bounds:
        raise _refused(
            f"the column '{column}' is {node.schema[column]}, and ranges are of dates, timestamps and integers",
            "name another --column, or give the source a 'schema' with such a type",
        )
    if kind is not None and shard.has_bounds:
        shard.condition(column, kind)
    return kind


def _refuse(graph: Graph, source: str) -> list[str]:
    """What to know of steps that see one shard at a time. Raises WorkflowError (E0131)."""
    for node in graph:
        if isinstance(node, SourceNode) and not node.connector.capabilities().bounded:
            raise _refused(
                f"the rows of the source '{node.step}' have no end",
                "add --set settings.mode=batch, or read a table",
            )
        if not isinstance(node, DestinationNode):
            continue
        connector = node.connector
        if connector.replaces() or connector.mode == "mirror" or connector.capabilities().all_rows:
            raise _refused(
                f"the destination '{node.step}' has mode: {connector.mode}, so a shard would take away the rows of "
                "the others",
                f"add --set destinations.{node.step}.config.mode=append, or upsert with a key",
            )
    stateful = dict.fromkeys(node.step for node in graph if isinstance(node, StatefulNode))
    return [
        f"the step '{step}' works on the rows of one shard at a time: cut where its groups do not cross shards"
        for step in stateful
    ]


def _writes_alone(graph: Graph) -> str | None:
    """A destination that writes to a local file that has one writer at a time."""
    for node in graph:
        if isinstance(node, DestinationNode):
            connector = node.connector
            if connector.writes_to() is not None and not connector.capabilities().parallel:
                return node.step
    return None


def _refused(message: str, help: str) -> WorkflowError:
    return WorkflowError(message, code=REFUSED, help=help)
