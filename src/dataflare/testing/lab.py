"""Run workflows in tests: with a separate home, frequent checkpoints, and faults."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from msgspec.structs import replace

from dataflare.connectors import memory
from dataflare.jobs import RunOptions, RunResult, arun, run
from dataflare.testing.faults import FlakyStore
from dataflare.workflow import dsl
from dataflare.workflow.model import Workflow


class Lab:
    """Runs workflows (models or Python workflows) with their state in `home`.

        lab = Lab(tmp_path)
        lab.run_until_crash(workflow)
        lab.run(workflow, parallelism=3)
        assert lab.rows("out") == ...

    checkpoint_s: the interval of checkpoints. store_faults: see FlakyStore.
    """

    def __init__(
        self,
        home: Path,
        *,
        checkpoint_s: float = 0.002,
        store_faults: Mapping[str, list[Exception | None]] | None = None,
    ) -> None:
        self.home, self.checkpoint_s = home, checkpoint_s
        self.store_faults = dict(store_faults or {})
        memory.clear()

    def run(
        self,
        workflow: Workflow | dsl.Workflow,
        *,
        parallelism: int | None = None,
        restarts: int = 3,
        fresh: bool = False,
        for_s: float | None = None,
    ) -> RunResult:
        """Run it to its end. After a crash it restarts at once, up to `restarts` times."""
        model = self._prepared(workflow, parallelism, restarts)
        return run(model, replace(self.options, fresh=fresh, for_s=for_s))

    async def arun(self, workflow: Workflow | dsl.Workflow, *, restarts: int = 3) -> RunResult:
        """As `run`, on the event loop of the test, which may cancel it."""
        return await arun(self._prepared(workflow, None, restarts), self.options)

    @property
    def options(self) -> RunOptions:
        """The options of its runs: where the state is, and the store that fails."""
        if not self.store_faults:
            return RunOptions(home=self.home)
        return RunOptions(home=self.home, storage=partial(FlakyStore, faults=self.store_faults))

    def _prepared(
        self, workflow: Workflow | dsl.Workflow, parallelism: int | None, restarts: int
    ) -> Workflow:
        """The model with the lab's settings."""
        model = workflow.build() if isinstance(workflow, dsl.Workflow) else workflow
        settings = model.settings
        changes: dict[str, Any] = {
            "checkpoint": settings.checkpoint.model_copy(update={"interval": self.checkpoint_s}),
            "restart": settings.restart.model_copy(update={"attempts": restarts, "delay": 0.0}),
        }
        if parallelism is not None:
            changes["parallelism"] = parallelism
        return replace(model, settings=settings.model_copy(update=changes))

    def run_until_crash(
        self, workflow: Workflow | dsl.Workflow, *, parallelism: int | None = None
    ) -> RunResult:
        """Run one attempt, which must fail. The next run resumes it."""
        result = self.run(workflow, parallelism=parallelism, restarts=0)
        if result.error is None:
            raise AssertionError(f"the run should crash, but its status is '{result.status}'")
        return result

    def start(self, workflow: Workflow | dsl.Workflow, **options: Any) -> Running:
        """Run it on another thread, so that the test can wait for pauses."""
        return Running(lambda: self.run(workflow, **options))

    def frame(self, name: str) -> pl.DataFrame:
        """The rows of committed epochs in a memory destination."""
        return memory.committed(name)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The same rows as dicts, sorted, because the order of tasks is not defined."""
        return sorted(memory.committed(name).rows(named=True), key=repr)


class Running:
    """A run on another thread."""

    def __init__(self, work: Any) -> None:
        self._work = work
        self._result: RunResult | None = None
        self._raised: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="dataflare-lab", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._raised = error

    def result(self, timeout_s: float = 30.0) -> RunResult:
        """Wait for the run and return its result. Raises the run's exception, or TimeoutError."""
        self._thread.join(timeout_s)
        if self._raised is not None:
            raise self._raised
        if self._result is None:
            raise TimeoutError(f"the run has not ended after {timeout_s:g} s")
        return self._result
