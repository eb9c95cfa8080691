"""Every example that needs no server gives on two workers what it gives in one process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from outcomes import outcome
from worker_processes import WorkerProcesses

from dataflare.workflow import load

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def workers() -> Iterator[WorkerProcesses]:
    made = WorkerProcesses(2)
    yield made
    made.close()


@pytest.mark.rotates(3)
@pytest.mark.parametrize("name", sorted(file.name for file in EXAMPLES.glob("*.yaml")))
def test_an_example_gives_the_same(name: str, tmp_path: Path, workers: WorkerProcesses) -> None:
    results = []
    for folder, where in {tmp_path / "one": None, tmp_path / "many": workers}.items():
        shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns(".dataflare", "out"))
        results.append(outcome(load(folder / name), folder, where))
    alone, on_workers = results
    assert alone["status"] == ("finished", None)
    assert alone["printed"] or alone["files"]
    assert on_workers == alone
