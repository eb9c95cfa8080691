"""What a run does beside its rows: an error there is told once, and ends nothing."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from types import SimpleNamespace as Fake
from typing import Any, cast

import pytest

from dataflare.jobs import Progress, RunOptions, disk_bound, run
from dataflare.jobs.disk_bound import DiskBound
from dataflare.jobs.reporting import reporting
from dataflare.jobs.watching import Watch
from dataflare.resilience.breaker import CircuitBreaker, Opened
from dataflare.resilience.policy import RetryPolicy
from dataflare.workflow.load import load_text
from dataflare.workflow.model import Workflow

TEXT = """\
name: beside
settings: {parallelism: 1}
sources:
  rows: {type: generate, config: {columns: {n: {sequence: 0}}, rows: 60, rate: 100/s}}
destinations:
  out: {type: blackhole, inputs: [rows]}
"""


def test_a_duty_that_fails_is_told_once_and_the_others_go_on(tmp_path: Path) -> None:
    reports: list[Progress] = []
    looks = 0

    def fails() -> None:
        nonlocal looks
        looks += 1
        raise OSError("no room for the course")

    def broken(watch: Watch) -> Any:
        watch.recorder.look = fails  # type: ignore[method-assign]
        return watch.log.writing(tmp_path, lambda text: None)

    options = RunOptions(tmp_path / "home", listener=reports.append, observers=[broken])
    result = run(load_text(TEXT, base=tmp_path), options)
    assert (result.status, result.error) == ("finished", None)
    told = [text for text in result.warnings if "no room for the course" in text]
    assert told == ["the course of the run failed: OSError: no room for the course"]
    assert looks > 1
    assert sum(each.message is None for each in reports) == looks


def test_a_listener_that_fails_ends_nothing_and_is_warned_of(tmp_path: Path) -> None:
    calls = 0

    def listener(progress: Progress) -> None:
        nonlocal calls
        calls += 1
        raise ValueError("its pipe is closed")

    result = run(load_text(TEXT, base=tmp_path), RunOptions(tmp_path / "home", listener=listener))
    assert (result.status, result.steps["out"]["rows_in"]) == ("finished", 60)
    assert calls > 1
    assert [text for text in result.warnings if "its pipe is closed" in text] == [
        "the listener of the run failed: ValueError: its pipe is closed"
    ]


def test_an_answer_that_takes_long_holds_up_no_report_and_one_that_fails_is_made_again() -> None:
    told: list[str] = []

    async def scenario() -> None:
        reports = tries = 0
        is_asked, ten_later = asyncio.Event(), asyncio.Event()

        def report() -> None:
            nonlocal reports
            reports += 1
            if is_asked.is_set() and reports >= at_answer + 10:
                ten_later.set()

        at_answer = 0

        async def answer() -> None:
            nonlocal tries, at_answer
            tries += 1
            if tries == 1:
                raise OSError("the folder is away")
            at_answer = reports
            is_asked.set()
            await asyncio.Event().wait()

        def failed_beside(what: str, error: Exception) -> None:
            told.append(f"{what}: {error}")

        watch = Fake(
            report_every_s=0.0,
            report=report,
            failed_beside=failed_beside,
            disk=Fake(is_bound=False),
        )
        task = asyncio.ensure_future(reporting(cast("Watch", watch), answer))
        await ten_later.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert tries == 2

    asyncio.run(scenario())
    assert told == ["a savepoint that was asked for: the folder is away"]


GROWN = """\
name: growing
settings:
  error_handling:
    on_error: dead_letter
    retry_policy: {max_attempts: 7}
    circuit_breaker: {failure_rate: 0.5, window: 60s, recovery: 5s}
sources:
  rows: {type: generate, config: {columns: {n: {sequence: 0}}, rows: 1}}
destinations:
  a: {type: http, inputs: [rows], config: {url: "https://api.example.com/a"}, error_handling: {dead_letter: {path: bad_a}}}
"""
MORE = """\
  b: {type: http, inputs: [rows], config: {url: "https://api.example.com/b"}, error_handling: {dead_letter: {path: bad_b}}}
  c: {type: http, inputs: [rows], config: {url: "https://other.example.com/c"}, error_handling: {circuit_breaker: {fallback: dead_letter}}}
"""


@pytest.fixture
def grown(tmp_path: Path) -> tuple[Watch, CircuitBreaker]:
    """A watch whose workflow has got two steps since the run began, and the breaker of its first one."""
    (tmp_path / "bad_b").mkdir()
    (tmp_path / "bad_b" / "letters.ndjson").write_bytes(b"x" * 5000)
    watch = Watch(load_text(GROWN, base=tmp_path), "run", RunOptions(tmp_path), lambda: None)
    watch.disk = DiskBound(watch.workflow, [], watch.warn)
    before = watch.calls.retries.of("a")._breaker
    assert before is not None
    watch.grow(load_text(GROWN + MORE, base=tmp_path))
    return watch, before


def test_steps_of_new_tables_get_all_that_the_others_have(
    grown: tuple[Watch, CircuitBreaker],
) -> None:
    watch, before = grown
    of = watch.calls.retries.of
    assert of("a")._breaker is before
    assert of("b")._breaker is before, "its system is the same"
    assert of("c")._breaker not in (None, before)
    for step in "abc":
        assert of(step).policy == RetryPolicy(max_attempts=7)
    assert [of(step).fallback for step in "abc"] == [None, None, "dead_letter"]
    assert watch.disk is not None
    assert watch.disk._sizes()["dead letters"] == 5000


def test_a_worker_may_tell_of_the_breaker_of_a_new_step(
    grown: tuple[Watch, CircuitBreaker],
) -> None:
    watch, _ = grown
    watch.calls.told_by_worker("opened", ("api.example.com", Opened("b", 10, 6, 0)))
    assert watch.calls.held_back == {"b": 1}
    assert "'a' must wait too" in str(watch.message)


def bounded(base: Path, path: str) -> Workflow:
    text = TEXT.replace(
        "inputs: [rows]",
        f"inputs: [rows], error_handling: {{on_error: dead_letter, dead_letter: {{path: '{path}'}}}}",
    ).replace("parallelism: 1", "parallelism: 1, resources: {disk: 1KiB}")
    return load_text(text, base=base)


def test_letters_in_the_home_folder_are_measured_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.ndjson").write_bytes(b"x" * 4000)
    disk = DiskBound(bounded(tmp_path / "elsewhere", "~/bad"), [], lambda texts: None)
    assert disk._sizes()["dead letters"] == 4000


def test_a_folder_that_cannot_be_read_is_told_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "state"
    (folder / "closed").mkdir(parents=True)
    (folder / "open").write_bytes(b"x" * 300)
    scandir = os.scandir

    def refuses(path: str) -> Any:
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(disk_bound.os, "scandir", refuses)
    told: list[str] = []
    disk = DiskBound(bounded(tmp_path, "bad"), [folder], told.extend)
    disk.check()
    assert disk._sizes()["state"] == 300
    assert set(told) == {
        f"'resources.disk' does not count {folder}/closed: it cannot be read: Permission denied"
    }


def test_many_files_cost_a_fiftieth_of_the_time_and_a_quick_look_is_always_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, looks, takes = 0.0, 0, 0.01

    def sizes(_: DiskBound) -> dict[str, int]:
        nonlocal at, looks
        at, looks = at + takes, looks + 1
        return {"state": 10}

    monkeypatch.setattr(DiskBound, "_sizes", sizes)
    disk = DiskBound(bounded(tmp_path, "bad"), [tmp_path], lambda texts: None, lambda: at)
    for _ in range(5):
        disk.check()
    assert (looks, disk.look_in_s()) == (5, 0.0)
    takes = 3.0
    disk.check()
    assert disk.look_in_s() == 150.0
    for _ in range(149):
        at += 1.0
        disk.check()
    assert looks == 6
    at += 1.0
    disk.check()
    assert looks == 7


def test_the_disk_is_looked_at_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on: set[str] = set()
    sizes = DiskBound._sizes

    def noting(self: DiskBound) -> dict[str, int]:
        on.add(threading.current_thread().name)
        return sizes(self)

    monkeypatch.setattr(DiskBound, "_sizes", noting)
    text = TEXT.replace("parallelism: 1", "parallelism: 1, resources: {disk: 1GiB}")
    result = run(load_text(text, base=tmp_path), RunOptions(tmp_path / "home"))
    assert result.status == "finished"
    assert on
    assert threading.main_thread().name not in on


def test_what_kind_a_file_is_depends_on_its_folder(tmp_path: Path) -> None:
    home = tmp_path / "state"
    for place, size in {
        "current.json": 1, "abcd1234/chunks/c": 10, "abcd1234/redo/out/r": 100, "dead_letters/x": 1_000,
        "own/deep/y": 10_000, "abcd1234/scratch/redo/s": 100_000,
    }.items():  # fmt: skip
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        (home / place).write_bytes(b"x" * size)
    disk = DiskBound(bounded(tmp_path, "state/own"), [home], lambda texts: None)
    assert disk._sizes() == {"state": 100_011, "redo files": 100, "dead letters": 11_000}
