"""Calls of a step that fail are made again in the same attempt, where a policy says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import flaky
import polars as pl
import pytest

from dataflare.jobs import Progress, RunOptions, RunResult, run
from dataflare.workflow.load import load_text

NUMBERS = """\
name: numbers
settings:
  parallelism: 1
  restart: {attempts: 0}
sources:
  numbers:
    type: flaky
    config: {rows: 1000, retry_policy: {max_attempts: 3, base_delay: 1ms}}
destinations:
  out: {type: file, inputs: [numbers], config: {path: out.csv}}
"""


@pytest.fixture(autouse=True)
def no_failures_left() -> Iterator[None]:
    yield
    flaky.FAILURES.clear()


def start(folder: Path, said: list[str] | None = None) -> RunResult:
    def listen(progress: Progress) -> None:
        if said is not None and progress.message is not None:
            said.append(progress.message)

    workflow = load_text(NUMBERS, base=folder)
    return run(workflow, RunOptions(folder / "home", listener=listen))


def test_a_source_is_opened_again_where_it_was(tmp_path: Path) -> None:
    flaky.FAILURES.extend([(0, flaky.lost()), (500, flaky.lost()), (500, flaky.lost())])
    said: list[str] = []
    result = start(tmp_path, said)
    assert result.status == "finished", result.error
    assert pl.read_csv(tmp_path / "out.csv")["n"].to_list() == list(range(1000))
    retried = [each for each in said if "trying again" in each]
    assert len(retried) == 3
    assert retried[0].startswith("step 'numbers': the connection was lost; trying again in ")
    assert retried[2].endswith("(3 of 3)")
    assert (
        "step 'numbers': tried again 3 times after E0607: the connection was lost"
        in result.warnings
    )


def test_what_is_used_up_fails_the_run_and_says_how_often(tmp_path: Path) -> None:
    flaky.FAILURES.extend([(500, flaky.lost()) for _ in range(3)])
    result = start(tmp_path)
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.code == "E0607"
    assert result.error.message == "the connection was lost (after 3 attempts)"
