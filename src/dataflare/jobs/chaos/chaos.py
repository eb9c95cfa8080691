"""Undisturbed runs first, then a run for each seed, each in a home and with destinations of its own.

Always true: a seed passes only if its run came to an end by itself, without an internal error, and each destination has
the rows of the undisturbed run.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from msgspec import Struct, field
from msgspec.structs import replace

from dataflare.checkpoint.files import workflow_folder
from dataflare.checkpoint.runs import RunLog
from dataflare.errors import Blame, CheckpointError, RunError
from dataflare.jobs.chaos import redirects
from dataflare.jobs.chaos.comparing import Written, comparable, differences
from dataflare.jobs.chaos.processes import Attempt, Command, Proxies, run
from dataflare.jobs.chaos.scenario import Attempts, Scenario, Totals, drawn, smallest
from dataflare.planner.bind import bind_workflow
from dataflare.planner.families import expanded
from dataflare.workflow.model import Workflow

UNDISTURBED = "E0822"
_CLEAN_ATTEMPTS = 3
"""After the faults, a run that fails is begun again so often: a user would do so."""
_SHRINKS_MAX = 12
_TIMEOUT_S = 60.0
_KILLED = -9
_ALLOWED = (0, 1, _KILLED, 130)
_SECOND = {"checkpoint.interval": "20ms", "batch": "{initial: 50, min: 10, max: 100}"}
"""Settings of the second undisturbed run: a result that depends on them cannot be compared."""
_ALWAYS = {"restart.delay": "20ms"}

Load = Callable[[Sequence[str]], Workflow]


class Outcome(Struct, frozen=True):
    """How the run of a seed ended. happened: how many of its faults happened; runs: how many processes it took.
    problems: by destination or `run`, what is wrong; empty if nothing is."""

    scenario: Scenario
    happened: int
    runs: int
    seconds: float
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_equal(self) -> bool:
        return not self.problems


class Chaos:
    """A workflow under test. load: reads it with more values for `--set`. command: that of a run.

    Used as a context; after that nothing is left of what its runs wrote. Entering it runs the workflow twice, and raises
    WorkflowError (E0130) if it cannot be run with faults, and RunError (E0822) if it fails without any.
    """

    def __init__(self, load: Load, command: Command) -> None:
        self._load, self._command = load, command
        self._stack = ExitStack()
        self.not_compared: Mapping[str, str] = {}
        self.unsteady: Mapping[str, str] = {}
        """By destination, in what two undisturbed runs differ."""

    @property
    def compared(self) -> Sequence[str]:
        """The destinations that are compared, in all columns or in some."""
        return [*self._what.columns]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            workflow = asyncio.run(expanded(self._load(())))
            redirects.redirected(workflow_as_written := self._load(()), Path())
            redirects.refuse(workflow_as_written, asyncio.run(bind_workflow(workflow)))
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dataflare-chaos-"))
            self._folder = Path(folder)
            servers = redirects.servers(workflow_as_written)
            targets = [(each.host, each.port) for each in servers]
            self._proxies = stack.enter_context(Proxies(targets))
            self._environment = {
                f"DATAFLARE_CHAOS_{number}": server.through(self._proxies.port(target))
                for number, (server, target) in enumerate(zip(servers, targets, strict=True))
            }
            self._sets = [
                f"{server.path}=${{DATAFLARE_CHAOS_{number}}}"
                for number, server in enumerate(servers)
            ]
            self._prepare()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, seed: int, attempts: Attempts | None = None) -> Outcome:
        """The run of a seed. attempts: its faults, in place of those of the seed."""
        scenario = drawn(seed, self._totals)
        if attempts is not None:
            scenario = replace(scenario, attempts=attempts)
        sandbox = _Sandbox(self, scenario.settings, f"seed-{seed}")
        try:
            return self._run(sandbox, scenario)
        finally:
            sandbox.remove()

    def smallest(self, outcome: Outcome) -> Attempts:
        """The faults of an outcome that are needed for a problem."""
        scenario = outcome.scenario
        return smallest(
            scenario.attempts,
            lambda attempts: not self.run(scenario.seed, attempts).is_equal,
            _SHRINKS_MAX,
        )

    # -- inside ------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        first, second = _Sandbox(self, {}, "first"), _Sandbox(self, _SECOND, "second")
        ends = [self._undisturbed(sandbox) for sandbox in (first, second)]
        self._expected = first.written()
        self._what, self.unsteady = comparable(self._expected, second.written())
        self.not_compared = self._what.not_compared
        places, file_calls, calls, elapsed_us = (
            max(each.counts[at] for each in ends) for at in range(4)
        )
        self._totals = Totals(places, file_calls, calls, elapsed_us / 1e6, bool(self._proxies))
        self._timeout_s = _TIMEOUT_S + 20 * max(each.seconds for each in ends)
        second.remove()

    def _undisturbed(self, sandbox: _Sandbox) -> Attempt:
        attempt = sandbox.run((), _TIMEOUT_S * 60)
        if attempt.status != 0:
            raise RunError(
                f"the workflow fails without faults, with status {attempt.status}",
                code=UNDISTURBED,
                blame=Blame.DATA,
                notes=attempt.errors.strip().splitlines()[:5],
                help="let 'dataflare run' succeed first",
            )
        return attempt

    def _run(self, sandbox: _Sandbox, scenario: Scenario) -> Outcome:
        started, happened, runs = time.monotonic(), 0, 0
        problems: dict[str, str] = {}
        clean: Attempts = ((),) * _CLEAN_ATTEMPTS
        for faults in (*scenario.attempts, *clean):
            attempt = sandbox.run(faults, self._timeout_s)
            runs, happened = runs + 1, happened + attempt.happened
            problem = problem_of(attempt)
            if problem is not None:
                problems["run"] = problem
                break
            if attempt.status == 0 or sandbox.has_finished():
                break
        else:
            problems["run"] = f"it does not succeed any more: {_first_line(attempt.errors)}"
        if not problems:
            problems = differences(self._expected, sandbox.written(), self._what)
        return Outcome(scenario, happened, runs, time.monotonic() - started, problems)


class _Sandbox:
    """The home and the destinations of one run."""

    def __init__(self, chaos: Chaos, settings: Mapping[str, str], name: str) -> None:
        self._chaos, self._folder = chaos, chaos._folder / name
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        self._home = self._folder / "home"
        workflow = chaos._load(())
        self._sets = [
            *redirects.redirected(workflow, self._folder),
            *(f"settings.{path}={value}" for path, value in {**_ALWAYS, **settings}.items()),
        ]

    def run(self, faults: Sequence[object], timeout_s: float) -> Attempt:
        chaos = self._chaos
        sets = [word for each in (*self._sets, *chaos._sets) for word in ("--set", each)]
        environment = {**chaos._environment, "DATAFLARE_HOME": str(self._home)}
        words = [sys.executable, "-m", "dataflare", "run", *chaos._command.words, *sets, "--quiet"]
        return run(words, self._folder, faults, chaos._proxies, environment, timeout_s)  # type: ignore[arg-type]

    def has_finished(self) -> bool:
        """Whether the run has finished, although its process was killed."""
        folder = workflow_folder(self._home, self._chaos._command.name)
        try:
            current = RunLog(folder).current()
        except CheckpointError:
            return False
        return current is not None and current.finished

    def written(self) -> Written:
        return Written.by(self._chaos._load(self._sets), self._home)

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def problem_of(attempt: Attempt) -> str | None:
    """What no fault excuses."""
    if attempt.status is None:
        return f"it did not end within {attempt.seconds:.0f} s"
    if "Traceback (most recent call last)" in attempt.errors or "error[E09" in attempt.errors:
        return f"an internal error: {_last_line(attempt.errors)}"
    if attempt.status not in _ALLOWED:
        return f"status {attempt.status}: {_first_line(attempt.errors)}"
    if attempt.status in (1, _KILLED) and not attempt.happened:
        return f"status {attempt.status} without a fault: {_first_line(attempt.errors)}"
    return None


def _first_line(text: str) -> str:
    return next(
        (line for line in text.splitlines() if line.startswith("error[")), text.strip()[:200]
    )


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1]
