"""What a job and its workers make sure of before anything runs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from worker_processes import WorkerProcesses

from dataflare import Workflow
from dataflare.checkpoint.shared_places import FolderPlace
from dataflare.checkpoint.shared_store import SharedStore
from dataflare.cluster import looking, meeting
from dataflare.cluster.meeting import (
    answer_mark,
    leave_mark,
    refuse_other_versions,
    take_marks,
    versions,
)
from dataflare.connectors.blackhole import BlackholeDestination
from dataflare.errors import ConfigError, RunError
from dataflare.jobs import RunOptions, run

FILE = """
name: looked
sources: {numbers: {type: inline, config: {rows: [{n: 1}]}}}
destinations: {out: {type: file, inputs: [numbers], config: {path: out.csv}}}
"""


def test_other_versions_are_refused_by_name() -> None:
    refuse_other_versions(versions(), "worker 1")
    with pytest.raises(ConfigError, match="polars") as told:
        refuse_other_versions({**versions(), "polars": "0.1", "python": "2.7"}, "worker 1")
    assert told.value.code == "E0433"
    assert "'worker 1' has python" in told.value.message
    assert "the job has 0.1" in told.value.message


def test_a_folder_that_one_of_both_does_not_see_is_refused(tmp_path: Path) -> None:
    job, other = FolderPlace(tmp_path / "job"), FolderPlace(tmp_path / "other")
    mark = leave_mark(job, "run/1/x")
    with pytest.raises(ConfigError, match="'w1' does not see") as told:
        answer_mark(other, mark, "run/1/x", 1, "w1")
    assert told.value.code == "E0434"
    answer_mark(job, mark, "run/1/x", 0, "w0")
    with pytest.raises(ConfigError, match="the job does not see what 'w1'"):
        take_marks(job, mark, {0: "w0", 1: "w1"})
    assert [*(tmp_path / "job").iterdir()] == [], "nothing is left behind"


def test_a_look_finds_all_well_and_leaves_nothing_behind(tmp_path: Path) -> None:
    workers = WorkerProcesses(3)
    try:
        found = asyncio.run(looking.look_at(workers, FolderPlace(tmp_path / "home" / "state")))
    finally:
        workers.close()
    assert len(found) == 3
    assert [*tmp_path.iterdir()] == []


def test_a_worker_of_another_version_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = WorkerProcesses(2)
    other = {**meeting.versions(), "sqlglot": "1.0"}
    monkeypatch.setattr(looking, "versions", lambda: other)
    try:
        with pytest.raises(ConfigError) as told:
            asyncio.run(looking.look_at(workers, FolderPlace(tmp_path)))
    finally:
        workers.close()
    assert told.value.code == "E0433"
    assert [*tmp_path.iterdir()] == []


def test_workers_that_cannot_reach_each_other_are_found(tmp_path: Path) -> None:
    """The job is told another address of one of them, at which no worker listens."""

    workers = WorkerProcesses(2)
    try:
        addresses = asyncio.run(workers.ready())

        async def look() -> None:
            real = looking.Meet

            def told(name: str, me: int, worker: str, peers: object, *rest: object) -> object:
                return real(name, me, worker, (("127.0.0.1", 1), addresses[1]), *rest)  # type: ignore[arg-type]

            looking.Meet = told  # type: ignore[assignment, misc]
            try:
                await looking.look_at(workers, FolderPlace(tmp_path))
            finally:
                looking.Meet = real  # type: ignore[misc]

        with pytest.raises(RunError, match=r"cannot reach the worker at 127\.0\.0\.1:1:") as error:
            asyncio.run(look())
    finally:
        workers.close()
    assert error.value.code == "E0833"


def test_check_looks_at_the_cluster(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(FILE)
    command = [sys.executable, "-m", "dataflare", "check", "w.yaml", "--cluster", "local:2"]
    told = subprocess.run(
        [*command, "--json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)["steps"][-1]
    assert (found["step"], found["type"]) == ("cluster", "local:2")
    assert found["found"]["workers"] == "2"


class OfThisModule(BlackholeDestination):
    type = "of_this_module"


def of_a_function() -> type[BlackholeDestination]:
    class OfAFunction(BlackholeDestination):
        type = "of_a_function"

    return OfAFunction


@pytest.mark.parametrize(("is_local", "code"), [(True, "E0437"), (False, "E0436")])
def test_a_class_that_workers_lack_is_told_and_not_tried_again(
    tmp_path: Path, is_local: bool, code: str
) -> None:
    wf = Workflow("classes", base=tmp_path)
    rows = wf.source("rows", "inline", rows=[{"n": 1}])
    rows.to("out", of_a_function() if is_local else OfThisModule)
    workers = WorkerProcesses(1)
    try:
        result = run(
            wf.build(), RunOptions(home=tmp_path / "home", workers=workers, storage=SharedStore)
        )
    finally:
        workers.close()
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.code == code, result.error.message
    assert "module" in str(result.error.help)
    assert workers.starts == 1
