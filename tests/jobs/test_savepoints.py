"""A savepoint is kept, and a run goes on from it: also after the workflow has changed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from dataflare import RunOptions, RunResult, load, run
from dataflare.checkpoint.lock import lock_state
from dataflare.checkpoint.runs import RunLog
from dataflare.checkpoint.savepoints import Savepoints
from dataflare.errors import CheckpointError, DataFlareError, RunError
from dataflare.jobs import arun
from dataflare.jobs.changes import compare
from dataflare.jobs.published_since import staged_rows_gone, with_published
from dataflare.jobs.savepoint_requests import savepoint
from dataflare.planner import plan

ROWS = 4_000
WORKFLOW = """\
name: ticks
settings: {parallelism: 2, checkpoint: {interval: 20ms}, batch: {initial: 50, min: 20, max: 100}}
sources:
  clock:
    type: generate
    config: {rows: 4000, rate: RATE, columns: {n: {sequence: 0}, key: {int: [1, 9]}}}
transformations:
  totals: {type: aggregate, inputs: [clock], config: {group_by: [key], measures: MEASURES}}
  once: {type: deduplicate, inputs: [clock], config: {key: [key]}}
destinations:
  sums: {type: sqlite, inputs: [totals], config: {path: sums.db, table: sums}}
  first: {type: sqlite, inputs: [once], config: {path: first.db, table: first}}
  parts: {type: file, inputs: [clock], config: {path: parts/, format: ndjson}}
"""
MEASURES = '{total: "sum(n)", rows: "count(*)"}'
SLOW, FAST = "500/s", "1000000/s"
RAW = (
    "destinations:\n",
    "destinations:\n  raw: {type: sqlite, inputs: [clock], config: {path: raw.db, table: t}}\n",
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A workflow that was stopped in the middle of its input, with a savepoint `one`."""
    write(tmp_path, rate=SLOW)
    assert go(tmp_path, for_s=0.2).status == "stopped"
    savepoint(tmp_path / "home" / "ticks", "one")
    write(tmp_path)
    return tmp_path


def write(
    folder: Path, *changes: tuple[str, str], measures: str = MEASURES, rate: str = FAST
) -> None:
    text = WORKFLOW.replace("MEASURES", measures).replace("RATE", rate)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "w.yaml").write_text(text)


def go(folder: Path, **options: object) -> RunResult:
    return run(load(folder / "w.yaml"), RunOptions(home=folder / "home", **options))  # type: ignore[arg-type]


def refused(folder: Path, **options: object) -> DataFlareError:
    try:
        error = go(folder, **options).error
    except DataFlareError as raised:
        error = raised
    assert error is not None
    return error


def asked(path: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(path) as db:
        return db.execute(query).fetchall()


def is_right(folder: Path) -> None:
    """Every row was counted once in every destination."""
    total = sum(range(ROWS))
    assert asked(folder / "sums.db", "select sum(total), sum(rows) from sums") == [(total, ROWS)]
    keys = asked(folder / "first.db", "select key from first order by key")
    assert keys == [(key,) for key in range(1, 10)]
    lines = [line for path in (folder / "parts").glob("*") for line in path.open()]
    assert len(lines) == len(set(lines)) == ROWS


def told(folder: Path) -> list[dict[str, str]]:
    """What `plan --against one` says of each step. It exits with 1 where it says that a run would be refused."""
    done = subprocess.run(
        [sys.executable, "-m", "dataflare", "plan", "w.yaml", "--against", "one", "--json"],
        cwd=folder,
        env={**os.environ, "DATAFLARE_HOME": str(folder / "home")},
        capture_output=True,
        check=False,
    )
    answer = json.loads(done.stdout)
    assert done.returncode == (0 if answer["possible"] else 1)
    steps: list[dict[str, str]] = answer["steps"]
    return steps


def outcomes(folder: Path, name: str = "one") -> dict[str, str]:
    model = load(folder / "w.yaml")
    manifest = Savepoints(folder / "home" / "ticks").read(name).manifest
    return {c.step: c.outcome for c in compare(model, plan(model).stages, manifest)}


@pytest.mark.parametrize("parallelism", [1, 3])
def test_with_another_parallelism(project: Path, parallelism: int) -> None:
    write(project, ("parallelism: 2", f"parallelism: {parallelism}"))
    assert set(outcomes(project).values()) == {"kept"}
    result = go(project, savepoint="one")
    assert result.error is None
    assert result.resumed_from is not None
    is_right(project)


def test_steps_that_were_renamed_keep_their_state(project: Path) -> None:
    write(
        project,
        ("  clock:\n", "  source:\n    was: clock\n"),
        ("[clock]", "[source]"),
        ("totals: {type", "groups: {was: totals, type"),
        ("[totals]", "[groups]"),
        ("once: {type", "firsts: {was: once, type"),
        ("[once]", "[firsts]"),
    )
    assert set(outcomes(project).values()) == {"kept"}
    assert go(project, savepoint="one").error is None
    is_right(project)


def test_a_new_step_does_not_get_the_state_of_one_that_was_renamed(project: Path) -> None:
    write(
        project,
        ("totals: {type", "groups: {was: totals, type"),
        ("inputs: [totals]", "inputs: [totals, groups]"),
        (
            "  once:",
            "  totals: {type: filter, inputs: [groups], config: {condition: 'rows < 0'}}\n  once:",
        ),
    )
    found = outcomes(project)
    assert (found["groups"], found["totals"]) == ("kept", "new")
    assert go(project, savepoint="one").error is None
    is_right(project)


def test_changes_are_accepted_only_by_a_run_that_goes_on(tmp_path: Path) -> None:
    """A run that is refused when its file is opened leaves the last checkpoint as it was, so the change can be
    undone and the run goes on by itself."""
    table = (
        "destinations:\n",
        "destinations:\n  table: {type: file, inputs: [totals], config: {path: t.csv}}\n",
    )
    write(tmp_path, table, rate=SLOW)
    assert go(tmp_path, for_s=0.2).status == "stopped"
    write(tmp_path, table, measures='{rows: "count(*)", most: "max(n)", total: "sum(n)"}')
    savepoint(tmp_path / "home" / "ticks", "one")
    (step,) = [each for each in told(tmp_path) if each["state"] == "impossible"]
    assert step["step"] == "table"
    assert "have other columns than the rows to come" in step["detail"]
    for options in ({"accept_changes": True}, {"savepoint": "one"}):
        error = refused(tmp_path, **options)
        assert (error.code, error.step) == ("E0803", "table")
    write(tmp_path, table)
    assert "impossible" not in [each["state"] for each in told(tmp_path)]
    assert go(tmp_path).error is None
    is_right(tmp_path)
    counted = (tmp_path / "t.csv").read_text().splitlines()[1:]
    assert sum(int(line.split(",")[2]) for line in counted) == ROWS


def test_steps_that_are_new_begin_without_state_and_those_that_are_gone_are_said(
    project: Path,
) -> None:
    write(
        project,
        ("  once: {type: deduplicate, inputs: [clock], config: {key: [key]}}\n", ""),
        ("inputs: [once]", "inputs: [few]"),
        (
            "transformations:\n",
            "transformations:\n  few: {type: limit, inputs: [clock], config: {rows: 2}}\n",
        ),
    )
    found = outcomes(project)
    assert (found["once"], found["few"], found["totals"]) == ("dropped", "new", "kept")
    result = go(project, savepoint="one")
    assert result.error is None
    assert any("'once'" in w and "gone" in w for w in result.warnings)
    assert asked(project / "sums.db", "select sum(rows) from sums") == [(ROWS,)]


@pytest.mark.parametrize("options", [{"savepoint": "one"}, {"accept_changes": True}], ids=str)
def test_a_measure_that_stays_keeps_its_state_wherever_it_is_written(
    project: Path, options: dict[str, object]
) -> None:
    """State columns are numbered by place: the count must not go on from the sum."""
    write(project, measures='{rows: "count(*)", most: "max(n)", total: "sum(n)"}')
    assert outcomes(project)["totals"] == "migrated"
    result = go(project, **options)
    assert result.error is None
    is_right(project)
    (warning,) = [each for each in result.warnings if "'totals'" in each]
    assert "max(n: int64) begins with the rows from here on" in warning


def test_an_average_becomes_a_sum_of_the_same_column(project: Path) -> None:
    write(project, measures='{total: "sum(n)", rows: "count(*)", mean: "sum(n) / count(*)"}')
    assert outcomes(project)["totals"] == "kept", "no other aggregate is needed"
    assert go(project, savepoint="one").error is None
    is_right(project)


@pytest.mark.parametrize(
    ("change", "step", "words"),
    [
        (("group_by: [key]", "group_by: [n]"), "totals", "its keys were key (int64)"),
        (
            ("  parts: {type", "  pieces: {was: never, type"),
            "pieces",
            "no step 'never'",
        ),
        (("config: {key: [key]}}", "config: {key: [n]}}"), "once", "its keys were"),
        (
            ("type: deduplicate, inputs: [clock], config: {key: [key]}", "type: limit, inputs: [clock], config: {rows: 5}"),
            "once",
            "it was a transformation deduplicate",
        ),
    ],
)  # fmt: skip
def test_state_that_means_something_else_is_refused_and_nothing_is_lost(
    project: Path, change: tuple[str, str], step: str, words: str
) -> None:
    write(project, change)
    assert outcomes(project)[step] == "impossible"
    error = refused(project, savepoint="one")
    assert (error.code, error.step, error.exit_status) == ("E0810", step, 2)
    assert words in error.message
    write(project)
    assert go(project).error is None
    is_right(project)


def test_an_older_savepoint_is_refused_where_rows_cannot_be_taken_back(tmp_path: Path) -> None:
    write(tmp_path, RAW, rate=SLOW)
    assert go(tmp_path, for_s=0.2).status == "stopped"
    savepoint(tmp_path / "home" / "ticks", "one")
    assert go(tmp_path, for_s=0.2).status == "stopped"
    (step,) = [each for each in told(tmp_path) if each["state"] == "impossible"]
    assert step["step"] == "raw"
    assert "rows that were added since the savepoint" in step["detail"]
    error = refused(tmp_path, savepoint="one")
    assert error.code == "E0702"
    assert "'raw'" in error.message
    assert error.help is not None
    assert "without --from goes on from the last checkpoint" in error.help
    write(tmp_path, RAW)
    assert go(tmp_path).error is None, "the last checkpoint is still there"
    assert asked(tmp_path / "raw.db", "select count(*), sum(n) from t") == [
        (ROWS, sum(range(ROWS)))
    ]
    is_right(tmp_path)


def test_a_file_that_was_published_since_is_told_by_plan_and_run(tmp_path: Path) -> None:
    """Only files of rows: nothing else stands in the way."""
    text = WORKFLOW.replace("MEASURES", MEASURES)
    head = text.replace("RATE", SLOW).partition("transformations:")[0]
    text = (
        head
        + "destinations:\n  whole: {type: file, inputs: [clock], config: {path: whole.ndjson}}\n"
    )
    (tmp_path / "w.yaml").write_text(text)
    assert go(tmp_path, for_s=0.2).status == "stopped"
    savepoint(tmp_path / "home" / "ticks", "one")
    model = load(tmp_path / "w.yaml")
    manifest = Savepoints(tmp_path / "home" / "ticks").read("one").manifest
    stages = plan(model).stages
    assert "impossible" not in outcomes(tmp_path).values()
    assert staged_rows_gone(stages, manifest) == {}
    (tmp_path / "w.yaml").write_text(text.replace(SLOW, FAST))
    assert go(tmp_path, accept_changes=True).status == "finished"
    content = (tmp_path / "whole.ndjson").read_bytes()
    (change,) = [
        each
        for each in with_published(compare(model, stages, manifest), stages, manifest)
        if each.outcome == "impossible"
    ]
    assert change.step == "whole"
    assert f"a run has published {tmp_path / 'whole.ndjson'} since" in change.detail
    error = refused(tmp_path, savepoint="one")
    assert (error.code, error.step) == ("E0704", "whole")
    assert change.detail in error.message
    assert [each["state"] for each in told(tmp_path)] == ["kept", "impossible"]
    assert (tmp_path / "whole.ndjson").read_bytes() == content


def test_parts_go_back_to_an_older_savepoint(tmp_path: Path) -> None:
    """Nothing was committed in the databases: their results come at the end."""
    only = (
        ("  first: {type: sqlite, inputs: [once], config: {path: first.db, table: first}}\n", ""),
        ("  once: {type: deduplicate, inputs: [clock], config: {key: [key]}}\n", ""),
    )
    write(tmp_path, *only, rate=SLOW)
    assert go(tmp_path, for_s=0.2).status == "stopped"
    savepoint(tmp_path / "home" / "ticks", "one")
    assert go(tmp_path, for_s=0.2).status == "stopped"
    write(tmp_path, *only)
    assert go(tmp_path, savepoint="one").error is None
    lines = [line for path in (tmp_path / "parts").glob("*") for line in path.open()]
    assert len(lines) == len(set(lines)) == ROWS
    assert asked(tmp_path / "sums.db", "select sum(rows) from sums") == [(ROWS,)]


def test_a_run_that_nobody_watches_takes_the_savepoint_that_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, rate=SLOW)
    loaded = load(tmp_path / "w.yaml")
    folder = tmp_path / "home" / "ticks"

    async def main() -> None:
        running = asyncio.ensure_future(arun(loaded, RunOptions(tmp_path / "home")))
        while not lock_state(folder).held or RunLog(folder).current() is None:
            await asyncio.sleep(0)
        taken = await asyncio.to_thread(savepoint, folder, "watchless")
        assert not taken.final
        assert not running.done()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert Savepoints(folder).names() == ["watchless"]


def test_a_savepoint_outlives_the_checkpoints_that_it_was_taken_of(project: Path) -> None:
    folder = project / "home" / "ticks"
    assert go(project).error is None
    assert go(project, fresh=True).error is None
    assert Savepoints(folder).names() == ["one"]
    assert Savepoints(folder).problem("one") is None


def test_what_cannot_be_a_savepoint_is_refused(project: Path) -> None:
    folder = project / "home" / "ticks"
    for name in ("one", "../x", "", "a/b", ".x"):
        with pytest.raises(RunError) as caught:
            savepoint(folder, name)
        assert caught.value.code == "E0809"
    assert refused(project, savepoint="never").code == "E0809"
    assert go(project).error is None
    with pytest.raises(RunError, match="last run finished"):
        savepoint(folder, "late")


def test_a_damaged_savepoint_is_not_used(project: Path) -> None:
    folder = project / "home" / "ticks" / "savepoints" / "one"
    chunk = next((folder / "chunks").iterdir())
    data = chunk.read_bytes()
    chunk.unlink()
    chunk.write_bytes(data[:-8] + bytes(8))
    assert Savepoints(project / "home" / "ticks").problem("one") is not None
    error = refused(project, savepoint="one")
    assert isinstance(error, CheckpointError)
    assert error.code == "E0701"
    assert go(project).error is None
    is_right(project)


TAKE = """
import sys
from pathlib import Path
from dataflare.jobs.published_since import staged_rows_gone, with_published
from dataflare.jobs.savepoint_requests import savepoint
savepoint(Path(sys.argv[1]), "two")
"""


def test_a_savepoint_is_there_whole_or_not_at_all(project: Path) -> None:
    folder = project / "home" / "ticks"
    environ = {**os.environ, "DATAFLARE_CRASH_AT": "savepoint.before_rename"}
    killed = subprocess.run([sys.executable, "-c", TAKE, str(folder)], env=environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert Savepoints(folder).names() == ["one"]
    savepoint(folder, "two")
    assert Savepoints(folder).problem("two") is None


def test_a_run_from_a_savepoint_that_dies_goes_on_from_there(project: Path) -> None:
    write(project, measures='{rows: "count(*)", total: "sum(n)"}')
    environ = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    environ |= {"DATAFLARE_CRASH_AT": "savepoint.after_publish", "DATAFLARE_HOME": "home"}
    command = [sys.executable, "-m", "dataflare", "run", "w.yaml", "-q", "--from", "one"]
    killed = subprocess.run(command, cwd=project, env=environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert go(project).error is None
    is_right(project)
