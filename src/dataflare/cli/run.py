"""`dataflare run`: run a workflow in this process and report the result.

Always true: with `--json` standard output is exactly one JSON object, whatever happens and whatever
code prints during the run.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import Struct, field

from dataflare.cli import answers, common, observing, process, terminal
from dataflare.cli.progress import Progress
from dataflare.cli.usage import bad_usage
from dataflare.errors import DataFlareError

if TYPE_CHECKING:
    from dataflare.jobs import RunResult
    from dataflare.workflow.model import Workflow


def run(
    file: common.File,
    param: common.Params = None,
    sets: common.Sets = None,
    overlay: common.Overlays = None,
    env: common.Env = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over: forget checkpoints and cursors.")
    ] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Resume although steps have changed.")
    ] = False,
    accept_usual: Annotated[
        bool,
        typer.Option(
            "--accept-usual",
            help="Let rules with 'allowed: usual' and 'on_fail: fail' learn anew, from this run on.",
        ),
    ] = False,
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt", help="Continue the run of another state folder that wrote the destinations."
        ),
    ] = False,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="SAVEPOINT",
            help="Go on from this savepoint; steps may have changed (see plan --against).",
        ),
    ] = None,
    for_: Annotated[
        str | None,
        typer.Option("--for", metavar="DURATION", help="Stop after this long, with a checkpoint."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="HOST:PORT",
            help="Serve /metrics for Prometheus, /health/live and /health/ready there while it runs.",
        ),
    ] = None,
    otlp: Annotated[
        str | None,
        typer.Option(
            "--otlp",
            metavar="URL",
            help="Push metrics and traces to a collector of OpenTelemetry, http://HOST:4318 or grpc://HOST:4317.",
        ),
    ] = None,
    openlineage: Annotated[
        str | None,
        typer.Option(
            "--openlineage",
            metavar="URL",
            help="Send events of OpenLineage there: http://HOST:5000, a file, or console (standard error).",
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="WHERE",
            help="Run the tasks on workers of a Ray cluster: auto, ray://HOST:PORT, or local:N for N on this machine.",
        ),
    ] = None,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach",
            help="With --cluster: return when the run reads rows. See status, logs -f, wait and stop.",
        ),
    ] = False,
    json: common.Json = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no summary.")
    ] = False,
) -> int:
    """Run a workflow. An unfinished run is resumed from its latest checkpoint."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    request = Request(
        file,
        param,
        sets,
        overlay,
        env,
        fresh,
        accept_changes,
        for_,
        quiet,
        accept_usual=accept_usual,
        adopt=adopt,
        savepoint=from_,
        metrics=metrics,
        otlp=otlp,
        openlineage=openlineage,
        cluster=cluster,
        detach=detach,
    )
    if detach and cluster is None:
        raise bad_usage("--detach needs --cluster", "dataflare run")
    if from_ is not None and (fresh or adopt):
        raise bad_usage("--from cannot be used with --fresh or --adopt", "dataflare run")
    return (
        _run_as_json(request) if json else request.run(partial(_tell_people, request)).exit_status
    )


class Request(Struct):
    """The command line of a run. workflow: None until the file has been read. shown_notices: the notices
    that were shown during the run."""

    file: Path
    params: list[str] | None
    sets: list[str] | None
    overlays: list[Path] | None
    environment: str | None
    fresh: bool
    accept_changes: bool
    for_: str | None
    quiet: bool
    accept_usual: bool = False
    adopt: bool = False
    savepoint: str | None = None
    metrics: str | None = None
    otlp: str | None = None
    openlineage: str | None = None
    cluster: str | None = None
    detach: bool = False
    workflow: Workflow | None = None
    shown_notices: set[str] = field(default_factory=set)

    def run(self, tell: Callable[[RunResult], None]) -> RunResult:
        """Read the workflow, run it and show its progress. tell: reports the result, while the run still
        holds its lock."""
        for_s = common.seconds("--for", self.for_, "dataflare run")
        process.keep_freed_memory()
        self.workflow = common.read_workflow(
            self.file, self.params, self.sets, self.overlays, self.environment
        )
        from dataflare.checkpoint.home import move_old_state
        from dataflare.jobs import RunOptions, run
        from dataflare.jobs.door import door_of

        home = common.home_of(self.file)
        observers = observing.observers(home, self.metrics, self.otlp, self.openlineage)
        for warning in move_old_state(home, self.workflow.name, self.file):
            terminal.print_warning(warning)
        with ExitStack() as view_stack:
            progress = view_stack.enter_context(Progress.of(self.workflow, quiet=self.quiet))
            self.shown_notices = progress.shown_notices

            status = 0

            def tell_alone(result: RunResult) -> None:
                nonlocal status
                view_stack.close()
                tell(result)
                status = process.flush(result.exit_status)

            options = RunOptions(
                home=home,
                fresh=self.fresh,
                accept_changes=self.accept_changes,
                accept_usual=self.accept_usual,
                adopt=self.adopt,
                savepoint=self.savepoint,
                for_s=for_s,
                listener=progress.listen,
                tell=tell_alone,
                end=lambda result: process.end(status),
                observers=observers,
                door=lambda watch: door_of(watch, home),
            )
            if self.cluster is None:
                return run(self.workflow, options)
            from dataflare.jobs.on_workers import run_on_cluster

            again = partial(observing.observers, home, self.metrics, self.otlp, self.openlineage)
            result = run_on_cluster(self.workflow, options, self.cluster, again, detach=self.detach)
            if self.detach:
                tell_alone(result)
            return result


def _tell_people(request: Request, result: RunResult) -> None:
    _report(result, request.shown_notices)
    if result.status == "running":
        print(f"run {result.run_id} goes on: see dataflare status {result.workflow}")
        return
    if not request.quiet and result.status != "unread":
        from dataflare.cli import summary

        assert request.workflow is not None
        summary.print_summary(result, request.workflow)


def _run_as_json(request: Request) -> int:
    started = time.monotonic()
    with _stdout_redirected() as answer:
        has_answered = False

        def tell(result: RunResult) -> None:
            nonlocal has_answered
            _report(result, request.shown_notices)
            has_answered = True
            answer(result.to_json())

        try:
            return request.run(tell).exit_status
        except BaseException as raised:
            if not has_answered:
                name = request.workflow.name if request.workflow else None
                answer(failure(answers.as_error(raised), name, time.monotonic() - started))
            raise


def _report(result: RunResult, shown_notices: set[str]) -> None:
    """Print the error, and the warnings that were not shown yet, on standard error."""
    for warning in result.warnings:
        if warning not in shown_notices:
            terminal.print_warning(warning)
    if result.error is not None:
        terminal.print_error(result.error)


def failure(
    error: DataFlareError, workflow: str | None = None, duration_s: float = 0.0
) -> dict[str, Any]:
    """The JSON of `run --json` if the run did not start."""
    return {
        "workflow": workflow,
        "run_id": None,
        "status": "failed",
        "resumed_from": None,
        "duration_s": round(duration_s, 3),
        "steps": {},
        "checkpoints": {"completed": 0, "last_bytes": None},
        "written": {},
        "warnings": [],
        "notes": [],
        "times": {},
        "slowest": None,
        **answers.failure(error),
    }


def print_failure(error: DataFlareError) -> None:
    """Print the JSON for a wrong command line."""
    if not answers.is_given():
        answers.print_json(failure(error), indent=False)


@contextmanager
def _stdout_redirected() -> Iterator[Any]:
    """Redirect standard output to standard error, also for code of libraries. Yields a function that
    prints the result to the real standard output."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)

    def answer(value: dict[str, Any]) -> None:
        sys.stdout.flush()
        os.dup2(real, 1)
        answers.print_json(value, indent=False)
        sys.stdout.flush()

    try:
        yield answer
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)
