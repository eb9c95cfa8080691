"""The run of one shard, in a worker process.

Always true: the rows of a shard are read through a filter right behind the source, or through the parameters `from` and
`to` of the workflow; the shard's run has a name, a home and a lineage of its own, so its destinations know it from others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from dataflare.checkpoint.files import workflow_folder
from dataflare.checkpoint.runs import RunLog
from dataflare.errors import CheckpointError, DataFlareError, Retry
from dataflare.jobs.backfill.shards import Kind, Shard, as_parameter
from dataflare.jobs.options import RunOptions
from dataflare.jobs.run import run
from dataflare.model.run_status import ResultStatus
from dataflare.sdk.context import Policy
from dataflare.workflow.alerts import share_rules
from dataflare.workflow.load import load, load_text
from dataflare.workflow.model import InputRef, Workflow

FILTER = "--shard"
"""The step of the condition. No step of a file can have this name."""
PARAMETERS = ("from", "to")


class Loading(Struct, frozen=True):
    """How the workflow is read: as on the command line of a run."""

    file: Path
    params: tuple[tuple[str, str], ...] = ()
    sets: tuple[tuple[str, str], ...] = ()
    overlays: tuple[Path, ...] = ()
    environment: str | None = None

    def load(self, more: Sequence[tuple[str, str]] = ()) -> Workflow:
        return load(
            self.file,
            params=dict((*self.params, *more)),
            sets=self.sets,
            overlays=self.overlays,
            environment=self.environment,
        )


class ShardRun(Struct, frozen=True):
    """name: of the shard's own workflow. home: of its state. source, column, kind: of the filter; no column: the shard is
    given to the workflow as its parameters, whose type is `parameter`. accept_changes: go on though steps have changed."""

    loading: Loading
    shard: Shard
    name: str
    home: Path
    source: str
    column: str | None
    kind: Kind | None
    parameter: str = ""
    policy: Policy | None = None
    accept_changes: bool = False

    def workflow(self) -> Workflow:
        """The workflow of the shard. Its alerts are the rules of `validate` steps alone: the others are about a run of the
        workflow, and would be told under the name of a shard. Raises what loading raises."""
        shard = self.shard
        given = parameters(shard, self.parameter) if self.column is None else ()
        workflow = self.loading.load(given)
        steps = [(t.name, t.type, t.config) for t in workflow.transformations.values()]
        alerts = tuple(share_rules(steps))
        workflow = replace(workflow, name=self.name, alerts=alerts, notifiers={})
        if self.column is None:
            return workflow
        return filtered(workflow, self.source, shard.condition(self.column, self.kind or "integer"))

    def has_finished(self) -> bool:
        """Whether the shard's run has finished, in this process or an earlier one."""
        try:
            current = RunLog(workflow_folder(self.home, self.name)).current()
        except CheckpointError:
            return False
        return current is not None and current.finished


class ShardResult(Struct, frozen=True):
    """rows_in: that its sources gave; where a source skips the rows of other shards, those of the shard; rows_out: that its destinations took, of this process. error: why it failed; is_final:
    trying again cannot help. status: of the run."""

    status: ResultStatus
    rows_in: int = 0
    rows_out: int = 0
    dead_letters: int = 0
    duration_s: float = 0.0
    error: str | None = None
    is_final: bool = False
    warnings: tuple[str, ...] = ()


def parameters(shard: Shard, type_: str) -> list[tuple[str, str]]:
    """The bounds of a shard as parameters of a type."""
    bounds = (shard.begin or "", shard.end or "")
    return [(n, as_parameter(v, type_)) for n, v in zip(PARAMETERS, bounds, strict=True)]


def filtered(workflow: Workflow, source: str, condition: str) -> Workflow:
    """The workflow whose steps read the rows of a source for which a condition is true. Its place in the source's
    table is not kept: `incremental` is left out."""
    stub = load_text(
        "name: shard\nsources: {rows: {type: inline, config: {rows: [{a: 1}]}}}\n"
        "transformations: {where: {type: filter, inputs: [rows], config: {condition: 'true'}}}\n"
        "destinations: {out: {type: blackhole, inputs: [where]}}\n"
    ).transformations["where"]
    config = stub.config.without("condition")
    config.put("condition", condition, None, None)
    where = replace(stub, name=FILTER, config=config, inputs=(InputRef(source),))
    step = workflow.sources[source]
    sources = {**workflow.sources, source: replace(step, config=step.config.without("incremental"))}

    def behind(inputs: tuple[InputRef, ...]) -> tuple[InputRef, ...]:
        return tuple(
            InputRef(FILTER) if ref == replace(ref, step=source, output=None) else ref
            for ref in inputs
        )

    return replace(
        workflow,
        sources=sources,
        transformations={
            FILTER: where,
            **{
                n: replace(each, inputs=behind(each.inputs))
                for n, each in workflow.transformations.items()
            },
        },
        destinations={
            n: replace(each, inputs=behind(each.inputs))
            for n, each in workflow.destinations.items()
        },
    )


def run_shard(shard: ShardRun) -> ShardResult:
    """Run a shard to its end. An error of the workflow or of its systems is in the result."""
    if shard.has_finished():
        return ShardResult("finished")
    try:
        workflow = shard.workflow()
        threads = workflow.settings.resources.threads
        if threads:
            os.environ.setdefault("POLARS_MAX_THREADS", str(threads))
        result = run(
            workflow,
            RunOptions(home=shard.home, policy=shard.policy, accept_changes=shard.accept_changes),
        )
    except DataFlareError as error:
        return ShardResult("failed", error=str(error.message), is_final=error.retry is Retry.NEVER)
    error_of_run = result.error
    return ShardResult(
        result.status,
        _total(result.steps, _counted(result.steps, workflow), "rows_out"),
        _total(result.steps, workflow.destinations, "rows_in"),
        sum(counts.get("dead_letters") or 0 for counts in result.steps.values()),
        result.duration_s,
        None if error_of_run is None else f"{error_of_run.code}: {error_of_run.message}",
        error_of_run is not None and error_of_run.retry is Retry.NEVER,
        tuple(result.warnings),
    )


def _counted(steps: Any, workflow: Workflow) -> list[str]:
    """The steps whose results are the rows that are read. A source that skips the rows of other shards itself does not count
    rows; those of the shard come out of the filter."""
    named = [ref.step for ref in workflow.transformations[FILTER].inputs] if FILTER in steps else []
    return [
        FILTER if name in named and steps[name].get("rows_out") is None else name
        for name in workflow.sources
    ]


def _total(steps: Any, names: Any, what: str) -> int:
    return sum(steps[name].get(what) or 0 for name in names if name in steps)
