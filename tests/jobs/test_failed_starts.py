"""A run that fails before it has a plan is seen like any other, and changes nothing of what the next run continues."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dataflare.checkpoint.runs import RunLog
from dataflare.errors import DataFlareError
from dataflare.jobs.options import Progress, RunOptions
from dataflare.jobs.recording import recorded
from dataflare.jobs.run import arun, run
from dataflare.workflow.load import load_text
from tests.cli.command_line import cli

HEAD = """
name: w
version: "1.0"
settings: {restart: {attempts: %d, delay: 10ms}}
alerts: [{name: bad, when: failed, notify: told}]
notifiers: {told: {type: command, command: "sh -c 'cat >> told.txt'"}}
"""
CSV = "sources: {s: {type: file, config: {path: in.csv}, schema: {id: int64}}}\n"
ONE = "sources: {s: {type: inline, config: {rows: [{id: 1}]}}}\n"
INTO = "destinations: {a: {type: %s, inputs: [s], config: {path: a.db, table: t, mode: %s%s}}}\n"
LITE = INTO % ("sqlite", "append", "")
FAILING = {
    "a file that is missing": (CSV + LITE, "E0601"),
    "a server that is away": (
        'sources: {s: {type: http, config: {url: "http://127.0.0.1:1/x"}}}\n' + LITE,
        "E0607",
    ),
    "a lookup's file that is missing": (
        ONE
        + "transformations: {l: {type: lookup, inputs: [s], config: {source: {type: file, path: gone.csv}, "
        "mapping: {key: id}}}}\n" + LITE.replace("[s]", "[l]"),
        "E0601",
    ),
}


def notifier(folder: Path) -> list[dict[str, object]]:
    told = folder / "told.txt"
    return [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []


@pytest.mark.parametrize("case", FAILING)
def test_a_start_that_fails_is_recorded_logged_reported_and_told(tmp_path: Path, case: str) -> None:
    steps, code = FAILING[case]
    (tmp_path / "w.yaml").write_text(HEAD % 0 + steps)
    env = {"DATAFLARE_HOME": str(tmp_path / "home")}
    done = cli("run", "w.yaml", "--openlineage", "events.ndjson", cwd=tmp_path, **env)
    assert done.returncode == 1, done
    assert done.stderr.count(f"error[{code}]") == 1
    (found,) = RunLog(tmp_path / "home" / "w").list()
    assert (found.status, found.error.code if found.error else None) == ("failed", code)
    assert found.ended_at is not None
    course = recorded(tmp_path / "home" / "w", found.run_id)
    assert course is not None
    assert course.view.status == "failed"
    assert "the run failed" in (tmp_path / "told.txt").read_text()
    events = (tmp_path / "events.ndjson").read_text().splitlines()
    assert [json.loads(each)["eventType"] for each in events] == ["START", "FAIL"]
    assert code in cli("logs", "w", "--json", cwd=tmp_path, **env).stdout
    assert cli("wait", "w", cwd=tmp_path, **env).returncode == 1


def rows(folder: Path) -> list[int]:
    with sqlite3.connect(folder / "a.db") as database:
        return [n for (n,) in database.execute("select id from t order by id")]


def test_a_failed_start_changes_nothing_of_what_the_next_run_continues(tmp_path: Path) -> None:
    text = (HEAD % 0).replace("alerts", "# alerts").replace("notifiers", "# notifiers")
    lite = (
        "sources: {s: {type: sqlite, config: {path: in.db, table: t, incremental: {column: id}}}}\n"
    )
    options = RunOptions(tmp_path / "home")
    with sqlite3.connect(tmp_path / "in.db") as database:
        database.execute("create table t (id integer primary key)")
        database.execute("insert into t values (1), (2)")
    workflow = load_text(text + lite + LITE, base=tmp_path)
    assert run(workflow, options).status == "finished"
    state = (tmp_path / "home" / "w" / "current.json").read_bytes()

    (tmp_path / "in.db").rename(tmp_path / "away.db")
    for _ in range(2):
        with pytest.raises(DataFlareError, match="no such file"):
            run(workflow, options)
    assert (tmp_path / "home" / "w" / "current.json").read_bytes() == state
    assert [each.status for each in RunLog(tmp_path / "home" / "w").list()] == [
        "failed",
        "failed",
        "finished",
    ]

    (tmp_path / "away.db").rename(tmp_path / "in.db")
    with sqlite3.connect(tmp_path / "in.db") as database:
        database.execute("insert into t values (3)")
    assert run(workflow, options).status == "finished"
    assert rows(tmp_path) == [1, 2, 3]


def locked(folder: Path) -> sqlite3.Connection:
    database = sqlite3.connect(folder / "a.db", check_same_thread=False)
    database.execute("create table x (a)")
    database.commit()
    database.execute("begin exclusive")
    return database


def when_restarting(then: Callable[[], None]) -> Callable[[Progress], None]:
    def listen(progress: Progress) -> None:
        if progress.message is not None and "restarting in" in progress.message:
            then()

    return listen


def test_a_start_is_tried_again_as_often_as_restart_says(tmp_path: Path) -> None:
    workflow = load_text(
        HEAD % 3 + ONE + INTO % ("sqlite", "append", ", busy_timeout: 50ms"), base=tmp_path
    )
    database = locked(tmp_path)
    released = threading.Event()

    def release() -> None:
        if not released.is_set():
            released.set()
            database.rollback()

    options = RunOptions(tmp_path / "home", listener=when_restarting(release))
    result = run(workflow, options)
    assert result.status == "finished"
    assert any("restarted after E0605" in warning for warning in result.warnings)
    assert rows(tmp_path) == [1]
    assert not (tmp_path / "told.txt").exists()


def test_a_start_that_is_stopped_while_it_waits_is_left(tmp_path: Path) -> None:
    text = (HEAD % 3).replace("10ms", "1h")
    workflow = load_text(
        text + ONE + INTO % ("sqlite", "append", ", busy_timeout: 50ms"), base=tmp_path
    )
    database = locked(tmp_path)

    async def begun_and_cancelled() -> None:
        waits = asyncio.Event()
        options = RunOptions(tmp_path / "home", listener=when_restarting(waits.set))
        running = asyncio.ensure_future(arun(workflow, options))
        await waits.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(begun_and_cancelled())
    database.rollback()
    assert RunLog(tmp_path / "home" / "w").list() == ()


def test_a_workflow_that_is_refused_is_not_a_run(tmp_path: Path) -> None:
    text = HEAD % 3 + ONE + LITE.replace("table: t", "table: t, keys: [nothing]")
    with pytest.raises(DataFlareError) as refused:
        run(load_text(text, base=tmp_path), RunOptions(tmp_path / "home"))
    assert refused.value.exit_status == 2
    assert RunLog(tmp_path / "home" / "w").list() == ()
