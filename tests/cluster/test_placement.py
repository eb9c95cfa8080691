"""Where tasks go, and what `plan --cluster` says of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.cluster.placement import is_beside_job, placed
from dataflare.engine.deploy import deployed
from dataflare.planner import plan
from dataflare.sdk import registry
from dataflare.workflow import load

FILE = """
name: placed
sources: {numbers: {type: generate, config: {rows: 100, seed: 1, columns: {k: {int: [0, 9]}, v: {int: [0, 99]}}}}}
transformations:
  sums: {type: aggregate, inputs: [numbers], config: {group_by: [k], measures: {n: "count(*)"}}}
destinations:
  out: {type: file, inputs: [sums], config: {path: out, format: csv}}
  shown: {type: stdout, inputs: [sums]}
settings: {parallelism: %d}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("placed")


@given(tasks=st.integers(1, 12), workers=st.integers(1, 6))
def test_every_task_has_a_place_and_what_goes_to_one_task_stays(
    folder: Path, tasks: int, workers: int
) -> None:
    file = folder / "w.yaml"
    file.write_text(FILE % tasks)
    specs = deployed(plan(load(file), home=folder / "home").stages, None)
    where = placed(specs, workers)
    assert where.keys() == {spec.task for spec in specs}
    for spec in specs:
        assert (where[spec.task] == workers) == is_beside_job(spec)
        assert is_beside_job(spec) or where[spec.task] < workers
        for outlet in spec.outlets:
            if outlet.exchange == "forward":
                assert where[outlet.tasks[0]] in (where[spec.task], workers)
    used = set(where.values()) - {workers}
    assert len(used) >= min(workers, tasks)


@given(tasks=st.integers(1, 12), workers=st.integers(1, 6), data=st.data())
def test_a_task_goes_where_its_state_is(
    folder: Path, tasks: int, workers: int, data: st.DataObject
) -> None:
    file = folder / "w.yaml"
    file.write_text(FILE % tasks)
    specs = deployed(plan(load(file), home=folder / "home").stages, None)
    some = st.frozensets(st.integers(0, workers - 1))
    preferred = {s.task: data.draw(some) for s in specs if s.stage.name == "sums"}
    where, turns = placed(specs, workers, preferred), placed(specs, workers)
    for spec in specs:
        assert (where[spec.task] == workers) == is_beside_job(spec)
        wanted = preferred.get(spec.task)
        if wanted:
            assert where[spec.task] in wanted
            assert turns[spec.task] not in wanted or where[spec.task] == turns[spec.task]


@pytest.mark.parametrize(("path", "beside"), [("out.csv", True), ("out", False)])
def test_a_single_file_is_written_beside_the_job(folder: Path, path: str, beside: bool) -> None:
    """It grows under one name in all attempts: a worker that was cut off must not have it open."""
    file = folder / "single.yaml"
    file.write_text((FILE % 2).replace("path: out,", f"path: {path},"))
    specs = deployed(plan(load(file), home=folder / "home").stages, None)
    where = placed(specs, 3)
    assert {where[s.task] == 3 for s in specs if s.stage.name == "out"} == {beside}


@pytest.mark.parametrize("type_", ["postgres", "mysql", "sqlite", "duckdb", "delta", "iceberg"])
def test_a_table_is_written_where_its_transaction_is_committed(type_: str) -> None:
    assert registry.destination(type_).beside_job is True


def test_plan_says_where_tasks_run_and_what_crosses_the_network(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(FILE % 4)
    command = [sys.executable, "-m", "dataflare", "plan", "w.yaml", "--cluster", "local:2"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "worker 1           numbers[1], numbers[3], sums[1], sums[3]" in shown.stdout
    assert "the job's process  shown[0]" in shown.stdout
    assert "numbers -> sums (hash by k): 8 of 16 channels over the network" in shown.stdout
    told = subprocess.run(
        [*command, "--json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    edges = json.loads(told.stdout)["edges"]
    assert next((e["from"], e["to"], e["over_network"]) for e in edges) == ("numbers", "sums", 8)
