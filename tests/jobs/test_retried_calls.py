"""`error_handling` retries in a run: rows come once, whatever fails, and the run is not restarted."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import flaky
import polars as pl
import pytest

from dataflare.connectors import memory
from dataflare.connectors.file import line_reader
from dataflare.connectors.file.source import FileSource
from dataflare.errors import DataError
from dataflare.formats import checksum, line_chunks
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.jobs.progress import Progress
from dataflare.sdk import crashpoints
from dataflare.sdk.source import Chunk, ChunkReader
from dataflare.testing import Checkpoint, Crash, Lab, ScriptedSource, rows
from dataflare.workflow.load import load_text

QUICK = "{max_attempts: 4, initial_backoff: 0s}"
MANY = "{max_attempts: 40, initial_backoff: 0s}"

NUMBERS = """\
name: numbers
settings:
  parallelism: 1
  checkpoint: {{interval: {interval}}}
  restart: {{attempts: {restarts}, delay: 0s}}
  error_handling: {{{handling}}}
sources:
  numbers: {{type: flaky, config: {{rows: 1000, replays: {replays}}}}}
destinations:
  out: {{type: flaky_memory, inputs: [numbers]}}
"""


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    _forget()
    yield
    _forget()


def _forget() -> None:
    """Other files use the flaky connectors too, and may have left counts."""
    for each in (flaky.FAILURES, flaky.CALLS, flaky.MADE, flaky.GATES):
        each.clear()
    memory.clear()


def start(
    folder: Path,
    *,
    handling: str = f"retry_policy: {QUICK}",
    restarts: int = 0,
    interval: str = "2ms",
    replays: str = "true",
    **more: Any,
) -> RunResult:
    text = NUMBERS.format(handling=handling, restarts=restarts, interval=interval, replays=replays)
    return run(load_text(text, base=folder), RunOptions(folder / "home", **more))


def arrived() -> list[int]:
    return sorted(memory.committed("out")["n"].to_list())


def test_a_read_that_fails_goes_on_where_it_was(tmp_path: Path) -> None:
    flaky.FAILURES.extend([(n, flaky.lost()) for n in (0, 100, 500, 500, 1000)])
    said: list[str] = []
    result = start(tmp_path, listener=lambda p: said.append(p.message) if p.message else None)
    assert result.status == "finished", result.error
    assert arrived() == list(range(1000))
    assert flaky.MADE["source.open"] == 6
    assert not [w for w in result.warnings if w.startswith("restarted")]
    assert [w for w in result.warnings if w.startswith("step 'numbers': tried again 5 times")]
    again = "step 'numbers': the connection was lost; trying again in 0 s (2 of 4)"
    assert again in said


def test_a_source_without_replay_is_opened_again_while_it_gave_no_rows(tmp_path: Path) -> None:
    flaky.FAILURES.extend([(0, flaky.lost()), (0, flaky.lost())])
    result = start(tmp_path, replays="false")
    assert result.status == "finished", result.error
    assert flaky.MADE["source.open"] == 3
    assert arrived() == list(range(1000))


def test_a_source_without_replay_is_not_opened_again_after_it_gave_rows(tmp_path: Path) -> None:
    flaky.FAILURES.append((500, flaky.lost()))
    result = start(tmp_path, replays="false")
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.message == "the connection was lost"
    assert flaky.MADE["source.open"] == 1
    assert not flaky.FAILURES
    assert memory.committed("out").is_empty()


def test_a_source_without_replay_is_read_from_its_beginning_by_a_restart(tmp_path: Path) -> None:
    flaky.FAILURES.append((500, flaky.lost()))
    result = start(tmp_path, replays="false", restarts=1)
    assert result.status == "finished", result.error
    assert flaky.MADE["source.open"] == 2
    assert arrived() == list(range(1000))


@pytest.mark.parametrize("call", ["source.open", "open", "begin", "recover"])
def test_beginnings_are_tried_again(tmp_path: Path, call: str) -> None:
    flaky.CALLS[call] = [flaky.lost(), flaky.lost()]
    result = start(tmp_path)
    assert result.status == "finished", result.error
    assert arrived() == list(range(1000))
    assert flaky.MADE[call] == 3


@pytest.mark.parametrize("call", ["commit", "committed"])
def test_a_commit_is_tried_again_and_done_once(tmp_path: Path, call: str) -> None:
    flaky.CALLS[call] = [flaky.lost(), None, flaky.lost(), flaky.lost()]
    result = start(tmp_path, interval="1h")
    assert result.status == "finished", result.error
    assert arrived() == list(range(1000))
    assert flaky.MADE["commit"] == 2


@pytest.mark.parametrize(("call", "before"), [("write", [None]), ("prepare", [])])
def test_a_write_is_not_made_again_but_the_run_restarted(
    tmp_path: Path, call: str, before: list[None]
) -> None:
    flaky.CALLS[call] = [*before, flaky.lost()]
    failed = start(tmp_path)
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.message == "the connection was lost"
    flaky.CALLS[call] = [*before, flaky.lost()]
    result = start(tmp_path, restarts=1)
    assert result.status == "finished"
    assert [w for w in result.warnings if w.startswith("restarted after E0607")]
    assert arrived() == list(range(1000))


def test_a_restart_waits_for_the_checkpoint_that_is_being_written(tmp_path: Path) -> None:
    """Else the next attempt begins before it, and a later one goes on from a checkpoint whose rows
    that attempt has thrown away."""
    restarting = threading.Event()
    order: list[str] = []

    def at(point: str) -> None:
        if point == "checkpoint.before_publish" and not order:
            flaky.FAILURES.append((0, flaky.lost()))
            restarting.wait(0.5)
            order.append("written")

    def listener(progress: Progress) -> None:
        if progress.message and "restarting" in progress.message:
            order.append("restarting")
            restarting.set()

    flaky.GATES.append((500, lambda: bool(flaky.FAILURES or order)))
    with crashpoints.observed(at):
        result = start(tmp_path, restarts=1, handling="on_error: fail", listener=listener)
    assert result.status == "finished", result.error
    assert order == ["written", "restarting"]
    assert result.resumed_from == 1
    assert arrived() == list(range(1000))


def test_the_error_after_the_last_attempt_says_how_many_there_were(tmp_path: Path) -> None:
    flaky.FAILURES.extend([(500, flaky.lost()) for _ in range(9)])
    result = start(tmp_path)
    assert (result.status, result.exit_status) == ("failed", 1)
    assert result.error is not None
    assert result.error.message == "the connection was lost (after 4 attempts)"
    assert len(flaky.FAILURES) == 5


def test_restarts_come_after_the_retries(tmp_path: Path) -> None:
    flaky.FAILURES.extend([(500, flaky.lost()) for _ in range(9)])
    result = start(tmp_path, restarts=2)
    assert result.status == "finished", "3 attempts of 4 calls"
    assert len([w for w in result.warnings if w.startswith("restarted")]) == 2
    assert arrived() == list(range(1000))


def test_without_a_policy_nothing_is_tried_again(tmp_path: Path) -> None:
    flaky.FAILURES.append((500, flaky.lost()))
    assert start(tmp_path, handling="on_error: fail").status == "failed"


def test_other_errors_are_not_tried_again(tmp_path: Path) -> None:
    flaky.FAILURES.append((500, DataError("the row is nonsense", code="E0501")))
    result = start(tmp_path)
    assert result.status == "failed"
    assert flaky.MADE["source.open"] == 1


def test_a_lookup_table_is_loaded_again(tmp_path: Path) -> None:
    text = f"""\
name: looked
settings: {{restart: {{attempts: 0}}}}
sources:
  orders: {{type: inline, config: {{rows: [{{id: 3}}, {{id: 998}}]}}}}
  table:
    type: flaky
    config: {{rows: 1000, retry_policy: {QUICK}}}
transformations:
  found:
    type: lookup
    inputs: [orders]
    config: {{source: table, mapping: {{key: id, remote_key: n, fields: {{n: n}}}}}}
destinations:
  out: {{type: flaky_memory, inputs: [found]}}
"""
    flaky.FAILURES.extend([(0, flaky.lost()), (990, flaky.lost())])
    result = run(load_text(text, base=tmp_path), RunOptions(tmp_path / "home"))
    assert result.status == "finished", result.error
    assert memory.committed("out").sort("id")["id"].to_list() == [3, 998]
    assert not flaky.FAILURES


def test_checkpoints_are_cut_between_retries(tmp_path: Path) -> None:
    script = ScriptedSource(
        [*rows(0, 300), Crash(), *rows(300, 600), Checkpoint(), Crash(times=3), *rows(600, 900)],
        [*rows(1000, 1400), Crash(times=2), Checkpoint(), *rows(1400, 1600)],
    )
    text = f"""\
name: scripted
sources:
  numbers: {{type: scripted, config: {{script: {script.name}, retry_policy: {QUICK}}}}}
destinations:
  out: {{type: memory, inputs: [numbers]}}
"""
    lab = Lab(tmp_path)
    result = lab.run(load_text(text, base=tmp_path), restarts=0)
    assert result.status == "finished", result.error
    wanted = [*range(900), *range(1000, 1600)]
    assert sorted(row["n"] for row in lab.rows("out")) == wanted


def test_a_circuit_breaker_holds_calls_back(tmp_path: Path) -> None:
    flaky.FAILURES.extend([(500, flaky.lost()) for _ in range(8)])
    breaker = "circuit_breaker: {failure_rate: 0.05, window: 60s, recovery: 1ms}"
    policy = "retry_policy: {max_attempts: 20, initial_backoff: 0s}"
    result = start(tmp_path, handling=f"{policy}, {breaker}")
    assert result.status == "finished", result.error
    assert arrived() == list(range(1000))
    said = [w for w in result.warnings if "its circuit breaker opened" in w]
    assert said


def test_files_that_fail_midway_are_opened_again(tmp_path: Path) -> None:
    """A source of chunks: those given already are computed from the reader that failed."""
    pl.DataFrame({"n": range(200_000), "t": ["x" * 60] * 200_000}).write_csv(tmp_path / "in.csv")
    fail_midway(tmp_path, [0, 1, 0, 2])
    assert arrived() == list(range(200_000))


@pytest.mark.parametrize("seed", range(int(os.environ.get("DATAFLARE_REOPENINGS", "4"))))
def test_a_file_is_opened_again_wherever_its_reading_fails(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of checksums and chunks are small here and end at different places, so that a reader begins before, at and
    behind the end of a block. Checkpoints are cut meanwhile."""
    block, chance = 1 << 12, random.Random(seed)
    monkeypatch.setattr(checksum, "BLOCK_BYTES", block)
    monkeypatch.setattr(line_reader, "BLOCK_BYTES", block)
    monkeypatch.setattr(line_reader, "FIRST_BYTES", 700)
    monkeypatch.setattr(line_chunks, "CHUNK_BYTES", block + chance.randint(-99, 99))
    pl.DataFrame({"n": range(2_000), "t": ["x" * 60] * 2_000}).write_csv(tmp_path / "in.csv")
    fail_midway(tmp_path, [chance.randrange(4) for _ in range(20)])
    assert arrived() == list(range(2_000))


def fail_midway(folder: Path, coming: list[int]) -> None:
    """Read in.csv. coming: after how many chunks each reader fails; the last one does not."""
    real = FileSource.open

    async def opened(self: Any, split: Any, position: Any) -> Any:
        reader = await real(self, split, position)
        assert isinstance(reader, ChunkReader)
        good = coming.pop(0) if coming else 10**9
        read = reader.read_chunk

        async def read_chunk() -> Chunk:
            nonlocal good
            if not good:
                raise flaky.lost()
            good -= 1
            return await read()

        reader.read_chunk = read_chunk  # type: ignore[method-assign]
        return reader

    text = f"""\
name: files
settings: {{restart: {{attempts: 0}}, checkpoint: {{interval: 2ms}}}}
sources:
  numbers: {{type: file, config: {{path: in.csv, format: csv, retry_policy: {MANY}}}}}
destinations:
  out: {{type: memory, inputs: [numbers]}}
"""
    with mock.patch.object(FileSource, "open", opened):
        result = run(load_text(text, base=folder), RunOptions(folder / "home"))
    assert result.status == "finished", result.error
    assert not coming
