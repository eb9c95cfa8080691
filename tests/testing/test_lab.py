"""A scripted source in a lab: crashes, pauses and checkpoints happen where they are written."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import polars as pl
import pytest

from dataflare import Workflow
from dataflare.connectors import memory
from dataflare.engine.batcher import AdaptiveBatcher
from dataflare.errors import SystemError_
from dataflare.testing import (
    Checkpoint,
    Crash,
    Lab,
    Pause,
    ScriptedSource,
    VirtualClock,
    disk_faults,
    rows,
)


def totals_of(script: ScriptedSource) -> Workflow:
    wf = Workflow("totals", parallelism=2)
    numbers = script.add_to(wf, "numbers").map("tens", derive={"ten": "n % 10"})
    numbers.aggregate("totals", {"n": "count(*)", "sum": "sum(n)"}, group_by=["ten"]).to(
        "out", "memory"
    )
    return wf


def copy_of(script: ScriptedSource) -> Workflow:
    wf = Workflow("copy", parallelism=1)
    script.add_to(wf, "numbers").to("out", "memory")
    return wf


def test_each_row_counts_once_when_the_task_dies_between_checkpoints(tmp_path: Path):
    script = ScriptedSource(
        [*rows(0, 90), Checkpoint(), *rows(90, 130), Crash(), *rows(130, 200)], rows(200, 250)
    )
    lab = Lab(tmp_path)
    lab.run_until_crash(totals_of(script), parallelism=2)
    assert lab.frame("out").height == 0
    result = lab.run(totals_of(script), parallelism=3)
    assert result.status == "finished"
    assert result.resumed_from is not None
    assert script.opened.count(0) < len(script.opened), "a reader was opened where it had come to"
    ten = range(10)
    expected = [{"ten": n, "n": 25, "sum": sum(range(n, 250, 10))} for n in ten]
    assert lab.rows("out") == expected


def test_a_crash_is_restarted_as_often_as_it_strikes(tmp_path: Path):
    script = ScriptedSource([*rows(0, 10), Crash(times=2), *rows(10, 20)])
    lab = Lab(tmp_path)
    result = lab.run(copy_of(script))
    assert result.status == "finished"
    assert len(result.warnings) == 2
    assert lab.rows("out") == sorted(rows(0, 20), key=repr)
    with pytest.raises(AssertionError, match="should crash, but its status is"):
        lab.run_until_crash(copy_of(script))


def test_an_error_of_ones_own_ends_the_run(tmp_path: Path):
    script = ScriptedSource([*rows(0, 10), Crash(SystemError_("gone", code="E0601"))])
    result = Lab(tmp_path).run(copy_of(script))
    assert result.error is not None
    assert result.error.code == "E0601"


def test_what_is_before_a_checkpoint_is_committed_when_reading_goes_on(tmp_path: Path):
    pause = Pause()
    script = ScriptedSource([*rows(0, 10), Checkpoint(), pause, *rows(10, 20)])
    lab = Lab(tmp_path)
    running = lab.start(copy_of(script))
    pause.wait_reached()
    assert lab.rows("out") == sorted(rows(0, 10), key=repr)
    pause.release()
    assert running.result().status == "finished"
    assert lab.frame("out").height == 20


def test_marks_may_stand_side_by_side_and_at_the_ends(tmp_path: Path):
    crash = Crash()
    script = ScriptedSource([Checkpoint(), *rows(0, 5), crash, Checkpoint(), Checkpoint()])
    lab = Lab(tmp_path)
    assert lab.run(copy_of(script)).status == "finished"
    assert crash.times_left == 0
    assert lab.frame("out").height == 5


def test_a_script_also_runs_outside_of_a_lab(tmp_path: Path):
    script = ScriptedSource([*rows(0, 5), Checkpoint(), *rows(5, 9)])
    wf = Workflow("copy", settings={"parallelism": 1, "checkpoint": {"interval": "2ms"}})
    script.add_to(wf, "numbers").to("out", "memory")
    assert wf.run(home=tmp_path).status == "finished"
    assert memory.committed("out").height == 9


def test_a_store_that_fails_once_costs_a_run_and_no_row(tmp_path: Path):
    full = SystemError_("disk full", code="E0603")
    script = ScriptedSource([*rows(0, 10), Checkpoint(), *rows(10, 20)])
    lab = Lab(tmp_path, store_faults={"publish": [None, full]})
    assert lab.run(copy_of(script)).error is full
    assert lab.run(copy_of(script)).status == "finished"
    assert lab.rows("out") == sorted(rows(0, 20), key=repr)
    with pytest.raises(ValueError, match="unknown methods"):
        Lab(tmp_path, store_faults={"explode": []}).run(copy_of(script))


def test_a_full_disk_is_full_at_the_call_that_was_asked_for(tmp_path: Path):
    script = ScriptedSource([*rows(0, 10), Checkpoint(), *rows(10, 20)])
    lab = Lab(tmp_path)
    wf = copy_of(script)
    with disk_faults("fsync", at=1, times=10_000) as calls, pytest.raises(SystemError_) as caught:
        lab.run(wf)
    assert calls() >= 1
    assert caught.value.code == "E0603"
    assert lab.run(wf).status == "finished"
    assert lab.frame("out").height == 20
    with disk_faults("replace", errno=errno.EACCES), pytest.raises(PermissionError):
        os.replace(tmp_path / "a", tmp_path / "b")


def test_a_virtual_clock_moves_when_it_is_told_to():
    clock = VirtualClock()
    woken: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(f"{name} at {clock():g}")

    async def story() -> None:
        tasks = [asyncio.ensure_future(sleeper(n, s)) for n, s in (("b", 2), ("a", 1), ("c", 9))]
        await asyncio.sleep(0)
        assert clock.sleepers == 3
        clock.advance(3)
        await asyncio.gather(*tasks[:2])
        assert clock.sleepers == 1
        clock.advance(6)
        await tasks[2]

    asyncio.run(story())
    assert woken == ["b at 3", "a at 3", "c at 9"] or woken == ["a at 3", "b at 3", "c at 9"]
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


def test_the_engine_takes_a_virtual_clock():
    clock = VirtualClock()
    batcher = AdaptiveBatcher(clock=clock)
    first = batcher.batch_size()
    for _ in range(50):
        clock.advance(1.0)
        batcher.record_batch(first, 0.0001)
    assert batcher.batch_size() > first


def test_a_script_knows_its_columns():
    assert ScriptedSource([{"a": 1, "b": "x"}, {"a": None, "b": "y"}]).schema.names == ("a", "b")
    with pytest.raises(ValueError, match="needs a schema"):
        ScriptedSource([Crash()])
    assert ScriptedSource([Crash()], schema={"n": "int8"}).schema["n"].to_polars() == pl.Int8
