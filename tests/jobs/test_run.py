"""The life of a run: what it continues, how it restarts, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import flaky
import polars as pl
import pytest

from dataflare.checkpoint.lock import lock_state
from dataflare.checkpoint.runs import Current, RunLog
from dataflare.errors import CheckpointError, DataError, RunError
from dataflare.jobs import Progress, RunOptions, RunResult, preview, run
from dataflare.jobs.lineage import Lineage
from dataflare.workflow.load import load_text

NUMBERS = """\
name: numbers
settings:
  parallelism: 1
  checkpoint: {{interval: 2ms}}
  restart: {{attempts: {attempts}, delay: 1ms}}
sources:
  numbers: {{type: flaky, config: {{rows: 1000}}}}
transformations:
  even: {{type: filter, inputs: [numbers], config: {{condition: "{condition}"}}}}
destinations:
  out: {{type: file, inputs: [even], config: {{path: out, format: csv}}}}
"""


@pytest.fixture(autouse=True)
def no_failures_left() -> Iterator[None]:
    yield
    flaky.FAILURES.clear()
    flaky.MADE.clear()
    flaky.GATES.clear()


def start(
    folder: Path, *, attempts: int = 3, condition: str = "n % 2 = 0", **options: object
) -> RunResult:
    text = NUMBERS.format(attempts=attempts, condition=condition)
    workflow = load_text(text, base=folder)
    return run(workflow, RunOptions(folder / "home", **options))  # type: ignore[arg-type]


def written(folder: Path) -> list[int]:
    parts = sorted((folder / "out").glob("*.csv"))
    return sorted(n for part in parts for n in pl.read_csv(part)["n"].to_list())


def test_a_run_that_ends_says_what_it_did(tmp_path: Path) -> None:
    result = start(tmp_path)
    assert result.status == "finished"
    assert result.exit_status == 0
    assert written(tmp_path) == list(range(0, 1000, 2))
    told = result.to_json()
    assert told["steps"]["numbers"]["rows_out"] == 1000
    assert told["steps"]["even"] == {
        "rows_in": 1000,
        "rows_out": 500,
        "bytes_out": 0,
        "errors": 0,
        "dead_letters": 0,
        "late": 0,
    }
    assert told["steps"]["out"]["rows_in"] == 500
    assert told["checkpoints"]["completed"] >= 1
    assert told["error"] is None
    assert result.published["out"]["rows"] == 500


def test_errors_worth_retrying_restart_the_run_from_its_checkpoint(tmp_path: Path) -> None:
    flaky.FAILURES.extend([(100, flaky.lost()), (700, flaky.lost())])
    said: list[Progress] = []
    result = start(tmp_path, listener=said.append)
    assert result.status == "finished"
    assert written(tmp_path) == list(range(0, 1000, 2))
    assert len([w for w in result.warnings if w.startswith("restarted after E0607")]) == 2
    assert any(p.message and "restarting in" in p.message for p in said)


def test_restarts_are_counted_and_end(tmp_path: Path) -> None:
    flaky.FAILURES.extend([(100, flaky.lost())] * 9)
    result = start(tmp_path, attempts=2)
    assert (result.status, result.exit_status) == ("failed", 1)
    assert result.error is not None
    assert result.error.code == "E0607"
    assert len(flaky.FAILURES) == 6


def test_other_errors_fail_the_run_at_once_and_the_next_one_goes_on(tmp_path: Path) -> None:
    flaky.FAILURES.append((500, DataError("the row is nonsense", code="E0501")))
    failed = start(tmp_path)
    assert failed.status == "failed"
    error = failed.to_json()["error"]
    assert (error["code"], error["message"]) == ("E0501", "the row is nonsense")
    again = start(tmp_path)
    assert again.status == "finished"
    assert written(tmp_path) == list(range(0, 1000, 2))


def test_a_bug_of_ours_is_an_error_that_asks_for_a_report(tmp_path: Path) -> None:
    flaky.FAILURES.append((0, ZeroDivisionError("oops")))  # type: ignore[arg-type]
    result = start(tmp_path)
    assert result.error is not None
    assert result.error.code == "E0900"
    assert "report" in (result.error.help or "")


def test_after_a_finished_run_a_new_one_begins(tmp_path: Path) -> None:
    first, second = start(tmp_path), start(tmp_path)
    assert second.resumed_from is None
    assert first.run_id != second.run_id
    assert written(tmp_path) == sorted(2 * list(range(0, 1000, 2)))


def test_a_new_run_that_dies_before_its_first_checkpoint_starts_over(tmp_path: Path) -> None:
    start(tmp_path)
    flaky.FAILURES.append((0, DataError("at once")))
    assert start(tmp_path).status == "failed"
    again = start(tmp_path)
    assert again.resumed_from is None
    assert written(tmp_path) == sorted(2 * list(range(0, 1000, 2)))


def test_fresh_forgets_the_unfinished_run_but_not_what_is_published(tmp_path: Path) -> None:
    flaky.FAILURES.append((900, DataError("late")))
    assert start(tmp_path).status == "failed"
    published = written(tmp_path)
    again = start(tmp_path, fresh=True)
    assert again.resumed_from is None
    assert written(tmp_path) == sorted(published + list(range(0, 1000, 2)))


def checkpoints(folder: Path, count: int) -> bool:
    return len(list((folder / "home" / "numbers").glob("*/manifest-*"))) >= count


def unfinished(folder: Path) -> None:
    """Leave a run with two checkpoints behind, ended by an error."""
    flaky.GATES.extend((row, partial(checkpoints, folder, row // 300)) for row in (300, 600))
    flaky.FAILURES.append((1_000, DataError("at the end")))
    assert start(folder).status == "failed"


def test_a_changed_step_is_refused_by_name(tmp_path: Path) -> None:
    unfinished(tmp_path)
    with pytest.raises(RunError) as caught:
        start(tmp_path, condition="n % 2 = 1")
    assert caught.value.code == "E0803"
    assert caught.value.step == "even"
    assert caught.value.exit_status == 2
    assert start(tmp_path, condition="n % 2 = 1", accept_changes=True).status == "finished"


def test_what_may_change_may(tmp_path: Path) -> None:
    unfinished(tmp_path)
    assert start(tmp_path, attempts=7).status == "finished"


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    unfinished(tmp_path)
    manifests = sorted((tmp_path / "home" / "numbers").glob("*/manifest-*"))
    assert len(manifests) >= 2
    text = manifests[-1].read_text()
    manifests[-1].write_text(text[: len(text) // 2])
    result = start(tmp_path)
    assert result.status == "finished"
    assert any("is damaged" in warning for warning in result.warnings)
    assert written(tmp_path) == list(range(0, 1000, 2))


def test_no_good_checkpoint_left_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    unfinished(tmp_path)
    for manifest in (tmp_path / "home" / "numbers").glob("*/manifest-*"):
        manifest.write_text("{}")
    for marker in tmp_path.rglob(".*dataflare-*.json"):
        marker.unlink()
    result = start(tmp_path)
    assert isinstance(result.error, CheckpointError)
    assert "--fresh" in (result.error.help or "")


def test_preview_shows_the_first_rows_and_writes_nothing(tmp_path: Path) -> None:
    workflow = load_text(NUMBERS.format(attempts=0, condition="n % 3 = 0"), base=tmp_path)
    assert preview(workflow, "even", 4)["n"].to_list() == [0, 3, 6, 9]
    assert preview(workflow, "numbers", 2)["n"].to_list() == [0, 1]
    assert preview(workflow, "out", 2)["n"].to_list() == [0, 3]
    assert not (tmp_path / "out").exists()


def test_a_preview_shows_the_kinds_of_changes_as_words(tmp_path: Path) -> None:
    text = """
name: changes
sources:
  rows: {type: inline, config: {rows: [{k: 1, v: 1}, {k: 1, v: 2}]}}
transformations:
  totals: {type: aggregate, inputs: [rows], config: {group_by: [k], measures: {m: max(v)}, emit: updates}}
destinations:
  out: {type: blackhole, inputs: [totals]}
"""
    found = preview(load_text(text, base=tmp_path), "totals", 10)
    assert found.columns == ["k", "m", "_op"]
    assert found["_op"][0] == "insert"


PACED = """\
name: paced
settings: {checkpoint: {interval: 50ms}, parallelism: 1}
sources:
  clicks: {type: generate, config: {rows: 12_000, rate: 2000/s, columns: {id: {sequence: 0}}}}
destinations:
  out: {type: file, inputs: [clicks], config: {path: out, format: csv}}
"""


def paced(folder: Path, *options: str) -> subprocess.Popen[str]:
    (folder / "paced.yaml").write_text(PACED)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    return subprocess.Popen(
        [sys.executable, "-m", "dataflare", "run", "paced.yaml", "--json", *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ids(folder: Path) -> list[int]:
    parts = sorted((folder / "out").glob("*.csv"))
    return sorted(n for part in parts for n in pl.read_csv(part)["id"].to_list())


def wait_for_rows(folder: Path, process: subprocess.Popen[str]) -> None:
    """Until something has been committed."""
    while process.poll() is None and not list((folder / "out").glob("*.csv")):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_a_checkpoint(tmp_path: Path, number: int) -> None:
    process = paced(tmp_path)
    wait_for_rows(tmp_path, process)
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    told = json.loads(out)
    assert told["status"] == "stopped"
    assert len(ids(tmp_path)) == told["steps"]["out"]["rows_in"] < 12_000, (
        "all it read is committed"
    )
    again = paced(tmp_path, "--set", "sources.clicks.config.rate=1000000/s")
    out, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert json.loads(out)["resumed_from"] is not None
    assert ids(tmp_path) == list(range(12_000))


def test_for_stops_with_success_and_the_next_run_goes_on(tmp_path: Path) -> None:
    process = paced(tmp_path, "--for", "300ms")
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert json.loads(out)["status"] == "stopped"
    again = paced(tmp_path, "--set", "sources.clicks.config.rate=1000000/s")
    out, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert ids(tmp_path) == list(range(12_000))


def test_an_epoch_noted_late_and_a_new_attempt_do_not_undo_each_other(tmp_path: Path) -> None:
    workflow = load_text(NUMBERS.format(attempts=1, condition="true"), base=tmp_path)
    lineage = Lineage(workflow, RunOptions(tmp_path / "home"), "run")
    lineage.current = Current("lineage", 0, "run")
    late = threading.Thread(target=lambda: [lineage.note_epoch(n) for n in range(1, 200)])
    late.start()
    for attempt in range(1, 200):
        asyncio.run(lineage.keep(attempt=attempt))
    late.join()
    kept = lineage.log.current()
    assert kept is not None
    assert (kept.attempt, kept.last_epoch) == (199, 199)


def test_a_run_ends_right_after_its_record_while_it_holds_the_lock(tmp_path):
    order = []

    def end(result):
        folder = tmp_path / "home" / "w"
        order.append((result.status, lock_state(folder).held, RunLog(folder).last().reported))

    text = """
name: w
version: "1.0"
sources: {a: {type: inline, config: {rows: [{id: 1}]}}}
destinations: {o: {type: blackhole, inputs: [a]}}
"""
    workflow = load_text(text, base=tmp_path)
    run(workflow, RunOptions(tmp_path / "home", tell=lambda r: order.append("told"), end=end))
    assert order == ["told", ("finished", True, True)]


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        (RunError("no address", code="E0607"), "failed", "E0607"),
        (OSError(28, "No space left on device"), "failed", "E0603"),
        (KeyboardInterrupt(), "stopped", None),
    ],
)
def test_a_run_that_ends_while_it_starts_is_recorded_with_its_error(
    tmp_path: Path, raised: BaseException, status: str, code: str | None
) -> None:
    @contextlib.contextmanager
    def observer(watch: object) -> Iterator[None]:
        raise raised
        yield

    workflow = load_text(WORKFLOW_OF_ONE, base=tmp_path)
    home = tmp_path / "home"
    with pytest.raises(type(raised)):
        run(workflow, RunOptions(home, observers=[observer]))
    (found,) = RunLog(home / "one").list()
    assert (found.status, found.error.code if found.error else None) == (status, code)
    assert found.ended_at is not None
    assert run(workflow, RunOptions(home)).status == "finished"


WORKFLOW_OF_ONE = """
name: one
sources: {a: {type: inline, config: {rows: [{id: 1}]}}}
destinations: {out: {type: blackhole, inputs: [a]}}
"""
