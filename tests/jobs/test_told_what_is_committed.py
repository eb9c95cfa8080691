"""A source that acknowledges its rows is told of a position when every destination has the rows before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from dataflare.checkpoint.store import LocalStore
from dataflare.connectors import memory
from dataflare.engine import coordinator
from dataflare.errors import Retry, SystemError_
from dataflare.jobs import RunOptions, run
from dataflare.model.progress import Position
from dataflare.sdk.registry import register
from dataflare.testing import Checkpoint, Crash, Lab, ScriptedSource, rows
from dataflare.testing.scripted import ScriptedConnector
from dataflare.workflow import load_text
from dataflare.workflow.model import Workflow

CALLS: list[tuple[int, int]] = []
"""Of each call: the position, and how many rows the destination had."""
FAILURES: list[SystemError_] = []


@register
class Queue(ScriptedConnector):
    type = "scripted_queue"

    async def committed(self, positions: Mapping[str, Position]) -> None:
        if FAILURES:
            raise FAILURES.pop(0)
        await super().committed(positions)
        here = memory.committed("out").height
        CALLS.extend((each.value["item"], here) for each in positions.values())


@pytest.fixture(autouse=True)
def nothing_yet() -> Iterator[None]:
    CALLS.clear()
    yield
    FAILURES.clear()


def copy_of(script: ScriptedSource, attempts: int = 1) -> Workflow:
    return load_text(
        f"""\
name: copy
settings:
  parallelism: 1
  checkpoint: {{interval: 2ms}}
  error_handling: {{retry_policy: {{max_attempts: {attempts}, initial_backoff: 1ms}}}}
sources: {{in: {{type: scripted_queue, config: {{script: {script.name}}}}}}}
destinations: {{out: {{type: memory, inputs: [in], config: {{name: out}}}}}}
"""
    )


def test_it_is_told_after_the_commit_and_never_of_more_rows(tmp_path: Path) -> None:
    memory.clear()
    script = ScriptedSource([*rows(0, 10), Checkpoint(), *rows(10, 20), Checkpoint()])
    assert run(copy_of(script), RunOptions(home=tmp_path)).status == "finished"
    assert CALLS, "it was told"
    assert [at for at, _ in CALLS] == sorted(at for at, _ in CALLS)
    assert all(min(at, 10) <= here for at, here in CALLS), CALLS


def test_a_run_that_resumes_tells_what_its_checkpoint_has(tmp_path: Path) -> None:
    script = ScriptedSource([*rows(0, 10), Checkpoint(), Crash(), *rows(10, 20)])
    lab = Lab(tmp_path)
    lab.run_until_crash(copy_of(script))
    CALLS.clear()
    assert lab.run(copy_of(script)).status == "finished"
    assert CALLS[0] == (10, 10)
    assert lab.frame("out").height == 20


@pytest.mark.parametrize("retry", [Retry.LATER, Retry.NEVER])
def test_a_failed_call_loses_nothing(tmp_path: Path, retry: Retry) -> None:
    script = ScriptedSource([*rows(0, 10), Checkpoint(), *rows(10, 20)])
    lab = Lab(tmp_path)
    FAILURES.append(SystemError_("the queue is away", code="E0601", retry=retry))
    result = lab.run(copy_of(script, attempts=3))
    if retry is Retry.NEVER:
        assert result.error is not None
        assert lab.run(copy_of(script)).status == "finished"
    else:
        assert result.status == "finished"
    assert sorted(row["n"] for row in lab.rows("out")) == list(range(20))


def test_the_storage_of_checkpoints_is_an_option(tmp_path: Path) -> None:
    made: list[tuple[Path, str]] = []

    class Storage(LocalStore):
        def __init__(self, folder: Path, lineage: str) -> None:
            made.append((folder, lineage))
            super().__init__(tmp_path / "elsewhere", lineage)

    memory.clear()
    script = ScriptedSource([*rows(0, 10)])
    options = RunOptions(home=tmp_path / "home", storage=Storage)
    assert run(copy_of(script), options).status == "finished"
    assert {folder for folder, _ in made} == {tmp_path / "home" / "copy"}
    assert list((tmp_path / "elsewhere").rglob("manifest-*.json"))
    assert not list((tmp_path / "home").rglob("manifest-*.json"))


@pytest.mark.parametrize(
    "place", ["before_manifest", "after_manifest", "before_commit", "after_commit"]
)
@pytest.mark.parametrize("hit", [1, 2, 4])
def test_no_crash_makes_it_forget_a_row_that_some_destination_lacks(
    tmp_path: Path, place: str, hit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two destinations, so that a crash falls between their commits."""
    hits = 0

    def crash(name: str) -> None:
        nonlocal hits
        hits += name == f"engine.{place}"
        if hits == hit and name == f"engine.{place}":
            raise SystemError_("it crashed", code="E0601", retry=Retry.RESTART)

    monkeypatch.setattr(coordinator, "crash_point", crash)
    script = ScriptedSource(
        [*rows(0, 10), Checkpoint(), *rows(10, 20), Checkpoint(), *rows(20, 30)]
    )
    two = copy_of(script)
    other = replace(two.destinations["out"], name="other", config={"name": "other"})
    two = replace(two, destinations={**two.destinations, "other": other})
    told: list[int] = []
    lacking: list[tuple[int, int, int]] = []
    real = Queue.committed

    async def committed(self: Queue, positions: Mapping[str, Position]) -> None:
        await real(self, positions)
        at = max((each.value["item"] for each in positions.values()), default=0)
        given = sum("n" in item for item in script.items[0][:at] if isinstance(item, Mapping))
        told.append(given)
        counts = [memory.committed(name).height for name in ("out", "other")]
        if min(counts) < given:
            lacking.append((given, *counts))

    monkeypatch.setattr(Queue, "committed", committed)
    lab = Lab(tmp_path)
    if lab.run(two, restarts=0).status != "finished":
        assert lab.run(two).status == "finished"
    assert not lacking
    assert told[-1] == 30, "also at the end, and after a run that resumes"
    assert [lab.frame(name).height for name in ("out", "other")] == [30, 30]
