"""Random workflows, the Nexmark queries, late rows and dead letters: on three workers as in one process.

SAME_RESULT_SEEDS=200 SAME_RESULT_SEED=1 make test ARGS=tests/cluster/test_same_result.py repeats and lengthens it.
"""

from __future__ import annotations

import datetime
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from outcomes import outcome
from worker_processes import WorkerProcesses

from dataflare.workflow.load import load_text

sys.path.insert(0, str(Path(__file__).parents[1] / "operators"))
sys.path.insert(0, str(Path(__file__).parents[1] / "planner"))
sys.path.insert(0, str(Path(__file__).parents[2]))

import timed_flows
from flows import QUICK
from random_flows import Drawn, workflows

from benchmarks.nexmark.check import difference, expected, last_step
from benchmarks.nexmark.generate import generate
from benchmarks.nexmark.queries import QUERIES, workflow

SEEDS = int(os.environ.get("SAME_RESULT_SEEDS", "8"))
FIRST = int(os.environ.get("SAME_RESULT_SEED", str(datetime.date.today().toordinal() * SEEDS)))


@pytest.fixture(scope="module")
def workers() -> Iterator[WorkerProcesses]:
    made = WorkerProcesses(3)
    yield made
    made.close()


def test_random_workflows_give_the_same(workers: WorkerProcesses) -> None:
    @given(workflows())
    @settings(
        max_examples=SEEDS,
        phases=[Phase.generate],
        derandomize=False,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @seeded(FIRST)
    def law(drawn: Drawn) -> None:
        text = drawn.file.replace("{parallelism: 2}", "{parallelism: 3}")
        assert text != drawn.file
        found = []
        for where in (None, workers):
            with tempfile.TemporaryDirectory(dir=QUICK) as folder:
                made = load_text(text, file="flow.yaml", base=folder)
                found.append(outcome(made, Path(folder), where, *drawn.outputs))
        assert found[0]["status"] == ("finished", None)
        assert found[1] == found[0]

    law()


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_late_rows_and_dead_letters_are_the_same(
    seed: int, workers: WorkerProcesses, tmp_path: Path
) -> None:
    found = []
    for name, where in {"one": None, "many": workers}.items():
        text = timed_flows.write(seed, tmp_path / name)
        made = load_text(text, file="flow.yaml", base=tmp_path / name)
        found.append(outcome(made, tmp_path / name, where))
    assert found[0]["status"] == ("finished", None), text
    assert found[1] == found[0], text


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nexmark")
    generate(folder, events=50_000, rate=1_000)
    return folder


@pytest.mark.rotates(4)
@pytest.mark.parametrize("name", QUERIES)
def test_a_nexmark_query_gives_what_duckdb_gives(
    name: str, events: Path, workers: WorkerProcesses, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    target = (
        f"{{type: file, inputs: [{last_step(name)}], config: {{path: '{out}/', format: parquet}}}}"
    )
    text = workflow(name, str(events), target, checkpoint="50ms")
    text = text.replace("settings: {", "settings: {parallelism: 3, ")
    found = outcome(load_text(text), tmp_path, workers)
    assert found["status"] == ("finished", None)
    assert difference(name, out / "*.parquet", expected(name, str(events))) is None
