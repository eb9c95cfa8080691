"""Run a test of a workflow file: given rows through the real plan and engine, compared with expectations.

Always true: only a temporary folder is written, and no system is connected.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from msgspec.structs import replace

from dataflare.checkpoint.store import LocalStore
from dataflare.engine.attempt import Attempt, Start
from dataflare.engine.coordinator import Identity
from dataflare.engine.metrics import JobMetrics
from dataflare.errors import Blame, DataFlareError, PlanError
from dataflare.jobs.collector import CollectorDestination
from dataflare.jobs.compare import Arrived, Difference, compare
from dataflare.jobs.failures import as_dataflare_error
from dataflare.jobs.given_tables import with_given_tables
from dataflare.jobs.stubs import collected_as, stubbed
from dataflare.planner import RULES, physical
from dataflare.planner.bind import bind_workflow
from dataflare.planner.changelog import changelogs
from dataflare.planner.dead_letters import error_handling
from dataflare.planner.graph import DestinationNode, Graph
from dataflare.sdk.context import Policy
from dataflare.workflow.form import reserved

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow, WorkflowTest

_LINEAGE = "00000000-0000-4000-8000-000000000000"
_ROWS_MAX = 1_000_000
_SHOWN_MAX = 5


class CaseResult(Struct, frozen=True):
    """The result of a test. differences: by expectation; empty if it holds. error: what ended the test.

    failed_rows: rows that a step refused, to show to the user. actual: the actual rows, by expectation.
    updated: the file was changed to expect the actual rows.
    """

    name: str
    duration_s: float
    differences: Mapping[str, list[Difference]] = field(default_factory=dict)
    error: DataFlareError | None = None
    failed_rows: list[str] = field(default_factory=list)
    actual: Mapping[str, Arrived] = field(default_factory=dict)
    updated: bool = False

    @property
    def passed(self) -> bool:
        return self.error is None and not any(self.differences.values())

    @property
    def status(self) -> str:
        """passed, updated, failed (rows differ) or error."""
        if self.error is not None:
            return "error"
        return "passed" if self.passed else "updated" if self.updated else "failed"

    def to_json(self) -> dict[str, Any]:
        error = self.error
        return {
            "name": self.name,
            "status": self.status,
            "duration_s": round(self.duration_s, 3),
            "differences": {
                name: [each.to_json() for each in differences]
                for name, differences in self.differences.items()
                if differences
            },
            "failed_rows": self.failed_rows,
            "error": error and error.to_json(),
        }


def run_test(workflow: Workflow, test: WorkflowTest, *, policy: Policy | None = None) -> CaseResult:
    """Run one test. Raises errors of the workflow or the test. An error of the data or of a step is in
    the result."""
    started = time.perf_counter()
    try:
        arrived, failed = asyncio.run(_collected(workflow, test, policy or Policy()))
    except BaseException as raised:
        error = as_dataflare_error(raised)
        if error.blame is Blame.USER:
            raise error.at(spot=test.spot) from raised
        return CaseResult(test.name, time.perf_counter() - started, error=error)
    differences = {
        name: compare(rows, arrived[name], name, ordered=test.ordered)
        for name, rows in test.expect.items()
    }
    duration_s = time.perf_counter() - started
    return CaseResult(test.name, duration_s, differences, None, failed, arrived)


async def _collected(
    workflow: Workflow, test: WorkflowTest, policy: Policy
) -> tuple[dict[str, Arrived], list[str]]:
    """The actual rows of each expectation, and texts about failed rows."""
    workflow = with_given_tables(workflow, test, policy)
    reduced = await stubbed(workflow, test, policy)
    bound = await bind_workflow(reduced, policy=policy)
    # Never set: the collectors take all rows.
    unused = asyncio.Event()
    collectors = {
        name: CollectorDestination(_ROWS_MAX, unused, name) for name in reduced.destinations
    }
    graph = _ending_in(bound, collectors)
    letters = CollectorDestination(_ROWS_MAX, unused, reserved("_letters"))
    for rule in RULES:
        graph = rule(graph)
    steps = list(reduced.steps())
    plan = physical(
        graph,
        parallelism=1,
        bounded=True,
        commits_wait=True,
        changelogs=frozenset(changelogs(graph)),
        letters={step.name: letters for step in steps},
    )
    policies = {step.name: error_handling(reduced, step.name).on_error for step in steps}
    metrics = JobMetrics({step.name: step.kind for step in steps})
    with tempfile.TemporaryDirectory(prefix="dataflare-test-") as folder:
        start = Start(Identity(_LINEAGE, "test", 1, {}), 0, None, {})
        store = LocalStore(Path(folder), _LINEAGE)
        attempt = Attempt(plan, reduced.settings, start, store, {}, metrics, policies)
        await attempt.run(unused)
    rows = sum(frame.height for each in collectors.values() for frame in each.frames)
    if rows > _ROWS_MAX:
        raise PlanError(
            f"test '{test.name}' made more than {_ROWS_MAX:,} rows",
            code="E0301",
            spot=test.spot,
            help="give the test fewer rows",
        )
    actual = {}
    for expected in test.expect:
        name = collected_as(workflow, test, expected)
        schema = bound.nodes[name].schema
        actual[expected] = Arrived.of(collectors[name].frame(schema), schema)
    return actual, _told(letters)


def _ending_in(graph: Graph, collectors: Mapping[str, CollectorDestination]) -> Graph:
    nodes = dict(graph.nodes)
    for name, collector in collectors.items():
        node = nodes[name]
        assert isinstance(node, DestinationNode)
        nodes[name] = replace(node, connector=collector)
    return Graph(nodes, graph.effects)


def _told(letters: CollectorDestination) -> list[str]:
    rows = [row for frame in letters.frames for row in frame.iter_rows(named=True)]
    lines = [f"step '{row['step']}' refused {row['row']}: {row['message']}" for row in rows]
    more = len(lines) - _SHOWN_MAX
    return lines[:_SHOWN_MAX] + ([f"and {more:,} more"] if more > 0 else [])
