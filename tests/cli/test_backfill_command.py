"""`dataflare backfill`: shards are run once, tried again, set aside, and gone on with after a kill."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from command_line import cli, write

WORKFLOW = """\
name: orders
version: "1.0"
sources:
  rows:
    type: generate
    config:
      rows: 6000
      seed: 3
      columns:
        id: {sequence: 0}
        at: {time: {start: "2024-01-01T00:00:00Z", step: 1m}}
    event_time: {column: at}
transformations:
  seen: {type: python, inputs: [rows], config: {function: "seeing:see"}}
destinations:
  table: {type: sqlite, inputs: [seen], config: {path: out/orders.db, table: orders}}
  parts: {type: file, inputs: [seen], config: {path: out/parts/}}
"""
SEEING = """
import datetime
import os
import signal
from pathlib import Path

import polars as pl

HERE = Path(__file__).parent


def see(frame):
    days = set(frame["at"].dt.date())
    if datetime.date(2024, 1, 3) in days:
        MISHAP
    return frame


def once():
    mark = HERE / "mark"
    if mark.exists():
        return False
    mark.touch()
    return True
"""
WEEK = ("--from", "2024-01-01", "--to", "2024-01-06")


def project(folder: Path, mishap: str = "pass") -> None:
    write(folder, "w.yaml", WORKFLOW)
    write(folder, "seeing.py", SEEING.replace("MISHAP", mishap))


def ids(folder: Path) -> tuple[list[int], list[int]]:
    with closing(sqlite3.connect(folder / "out/orders.db")) as database:
        rows = [n for (n,) in database.execute("select id from orders order by id")]
    return rows, pl.read_parquet(folder / "out/parts/*.parquet")["id"].sort().to_list()


def backfill(folder: Path, *words: str, status: int = 0) -> dict[str, object]:
    done = cli("backfill", "w.yaml", *words, "--json", cwd=folder)
    assert done.returncode == status, done.stdout + done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def all_once(folder: Path, numbers: Sequence[int] = range(6000)) -> None:
    assert ids(folder) == (list(numbers), list(numbers))


def test_each_day_is_a_run_and_no_row_comes_twice(tmp_path: Path) -> None:
    project(tmp_path)
    answer = backfill(tmp_path, *WEEK)
    assert (answer["shards"], answer["done"], answer["rows_in"]) == (5, 5, 5 * 6000)
    all_once(tmp_path)
    again = backfill(tmp_path, *WEEK)
    assert (again["done"], again["done_before"], again["rows_in"]) == (5, 5, 0)
    all_once(tmp_path)


@pytest.mark.rotates(2)
def test_a_part_of_the_days_is_written_and_the_rest_later(tmp_path: Path) -> None:
    project(tmp_path)
    backfill(tmp_path, "--from", "2024-01-02", "--to", "2024-01-03", "--shards", "6h")
    all_once(tmp_path, range(1440, 2880))
    backfill(tmp_path, "--from", "2024-01-03", "--to", "2024-01-06")
    all_once(tmp_path, range(1440, 6000))


@pytest.mark.rotates(2)
def test_shards_by_hash_and_by_number_are_all_of_the_rows(tmp_path: Path) -> None:
    project(tmp_path)
    backfill(tmp_path, "--shards", "hash:4", "--column", "id")
    all_once(tmp_path)
    elsewhere = ("--set", "destinations.table.config.path=other/orders.db")
    elsewhere += ("--set", "destinations.parts.config.path=other/parts/")
    backfill(
        tmp_path, "--from", "0", "--to", "6000", "--shards", "2500", "--column", "id", *elsewhere
    )
    (tmp_path / "out").rename(tmp_path / "first")
    (tmp_path / "other").rename(tmp_path / "out")
    all_once(tmp_path)


@pytest.mark.parametrize("number", [1, 2])
def test_a_shard_whose_process_dies_is_tried_again(tmp_path: Path, number: int) -> None:
    project(tmp_path, "once() and os.kill(os.getpid(), signal.SIGKILL)")
    only_parts = ("--set", "destinations.table={type: blackhole, inputs: [seen]}")
    done = cli("backfill", "w.yaml", *WEEK, "--parallel", str(number), *only_parts, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "attempt 1 failed, to be tried again: its process died of the signal SIGKILL" in done.stdout
    )
    assert "finished: 5 of 5 shards done" in done.stdout
    found = pl.read_parquet(tmp_path / "out/parts/*.parquet")["id"].sort().to_list()
    assert found == list(range(6000))


def test_a_backfill_that_was_killed_goes_on_with_what_is_left(tmp_path: Path) -> None:
    project(tmp_path, "once() and os.kill(os.getppid(), signal.SIGKILL)")
    killed = cli("backfill", "w.yaml", *WEEK, cwd=tmp_path)
    assert killed.returncode == -9
    answer = backfill(tmp_path, *WEEK)
    before = answer["done_before"]
    assert isinstance(before, int)
    assert 2 <= before <= 3
    assert answer["done"] == 5
    all_once(tmp_path)


def test_a_fresh_backfill_that_did_not_finish_goes_on_without_fresh(tmp_path: Path) -> None:
    project(tmp_path, "raise ValueError('no such day')")
    blackholes = ("--set", "destinations.table={type: blackhole, inputs: [seen]}")
    blackholes += ("--set", "destinations.parts={type: blackhole, inputs: [seen]}")
    failed = cli("backfill", "w.yaml", *WEEK, *blackholes, "--fresh", cwd=tmp_path)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "the same command without --fresh goes on with what is left" in failed.stdout
    failed = cli("backfill", "w.yaml", *WEEK, *blackholes, cwd=tmp_path)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "4 of 5 shards done, 4 of them before" in failed.stdout
    assert "the same command goes on with what is left" in failed.stdout
    project(tmp_path)
    answer = backfill(tmp_path, *WEEK, *blackholes)
    assert (answer["done"], answer["done_before"]) == (5, 4)
    again = backfill(tmp_path, *WEEK, *blackholes, "--fresh")
    assert (again["done"], again["done_before"]) == (5, 0)
    assert again["backfill"] != answer["backfill"]
    last = backfill(tmp_path, *WEEK, *blackholes)
    assert (last["backfill"], last["done_before"]) == (again["backfill"], 5)


@pytest.mark.rotates(2)
def test_a_poisoned_shard_is_set_aside_and_the_others_are_done(tmp_path: Path) -> None:
    project(tmp_path, "raise ValueError('no such day')")
    answer = backfill(tmp_path, *WEEK, status=1)
    assert (answer["status"], answer["done"]) == ("failed", 4)
    set_aside = answer["set_aside"]
    assert isinstance(set_aside, dict)
    assert list(set_aside) == ["2"]
    assert "no such day" in set_aside["2"]
    project(tmp_path)
    answer = backfill(tmp_path, *WEEK)
    assert (answer["done"], answer["done_before"]) == (5, 4)
    all_once(tmp_path)


def test_a_workflow_with_the_parameters_from_and_to_cuts_its_rows_itself(tmp_path: Path) -> None:
    project(tmp_path)
    text = WORKFLOW.replace(
        "sources:\n", "params: {from: {type: timestamp}, to: {type: timestamp}}\nsources:\n", 1
    )
    text = text.replace(
        "transformations:\n",
        "transformations:\n  own:\n    type: filter\n    inputs: [rows]\n"
        '    config: {condition: "at >= ${param:from} AND at < ${param:to} AND id % 2 = 0"}\n',
    ).replace("inputs: [rows], config: {function", "inputs: [own], config: {function")
    write(tmp_path, "w.yaml", text)
    backfill(tmp_path, *WEEK)
    all_once(tmp_path, range(0, 6000, 2))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "destinations.table.config.mode=overwrite"), "the destination 'table' has mode: overwrite"),
        (("--column", "ta"), "the source 'rows' has no column 'ta'"),
        (("--source", "row"), "no step reads a source 'row'"),
        (("--column", "id"), "values of the kind integer, and '2024-01-01' is of another one"),
        (("--set", "sources.rows.config.rows=null"), "the rows of the source 'rows' have no end"),
    ],
)  # fmt: skip
def test_what_cannot_be_backfilled_is_refused(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    project(tmp_path)
    done = cli("backfill", "w.yaml", *WEEK, *words, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert (
        done.stderr.startswith(f"error[E0131]: {message}") or message in done.stderr.splitlines()[0]
    )
    assert not (tmp_path / "out").exists()


def test_a_step_with_state_is_told(tmp_path: Path) -> None:
    project(tmp_path)
    config = "destinations.table={type: sqlite, inputs: [sums], config: {path: out/s.db, table: s, mode: upsert, key: [day]}}"
    steps = "transformations.sums={type: aggregate, inputs: [seen], config: {group_by: {day: 'CAST(at AS date)'}, measures: {n: 'count(*)'}}}"
    done = cli("backfill", "w.yaml", *WEEK, "--set", steps, "--set", config, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the step 'sums' works on the rows of one shard at a time" in done.stderr
    with closing(sqlite3.connect(tmp_path / "out/s.db")) as database:
        assert [n for (n,) in database.execute("select n from s order by day")] == [1440] * 4 + [
            240
        ]


@pytest.mark.parametrize(("format_", "rows"), [("csv", 2 * 4), ("ndjson", 3)])
def test_rows_that_are_read_are_counted_where_the_source_skips_the_others(
    tmp_path: Path, format_: str, rows: int
) -> None:
    days = ["2024-01-01", "2024-01-01", "2024-01-02", "2024-01-03"]
    lines = {
        "csv": ["id,day", *(f"{n},{day}" for n, day in enumerate(days))],
        "ndjson": [f'{{"id": {n}, "day": "{day}"}}' for n, day in enumerate(days)],
    }[format_]
    (tmp_path / f"in.{format_}").write_text("\n".join(lines) + "\n")
    (tmp_path / "w.yaml").write_text(
        f"name: w\nsources: {{s: {{type: file, config: {{path: in.{format_}}}, schema: {{id: int64, day: date}}}}}}\n"
        "destinations: {a: {type: file, inputs: [s], config: {path: out, format: ndjson}}}\n"
    )
    bounds = ("--from", "2024-01-01", "--to", "2024-01-03", "--column", "day")
    done = cli("backfill", "w.yaml", *bounds, "--json", cwd=tmp_path)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["rows_in"], answer["rows_out"]) == (0, rows, 3)


@pytest.mark.parametrize("allowed", ["100%", "10%"])
def test_a_shard_tells_no_alerts_and_is_judged_by_the_rules_of_its_steps(
    tmp_path: Path, allowed: str
) -> None:
    write(
        tmp_path,
        "w.yaml",
        f"""\
name: orders
sources: {{rows: {{type: generate, config: {{rows: 40, columns: {{id: {{sequence: 0}}}}}}}}}}
transformations:
  checked:
    type: validate
    inputs: [rows]
    config: {{rules: [{{name: early, expect: "id < 20", allowed: {allowed}, on_fail: fail}}]}}
destinations: {{table: {{type: sqlite, inputs: [checked], config: {{path: t.db, table: t}}}}}}
alerts: [{{name: any, when: "rows > 0", notify: c}}]
notifiers: {{c: {{type: command, command: [sh, -c, "cat >> told"]}}}}
""",
    )
    shards = ("--column", "id", "--from", "0", "--to", "40", "--shards", "20")
    done = cli("backfill", "w.yaml", *shards, cwd=tmp_path)
    assert done.returncode == (0 if allowed == "100%" else 1), done.stderr
    assert "alert" not in done.stdout + done.stderr
    assert not (tmp_path / "told").exists()
    with closing(sqlite3.connect(tmp_path / "t.db")) as database:
        (count,) = database.execute("select count(*) from t").fetchone()
    assert count == (40 if allowed == "100%" else 20)


def test_a_changed_step_is_refused_and_accepted_for_what_is_left(tmp_path: Path) -> None:
    project(tmp_path, "raise ValueError('not yet')")
    assert cli("backfill", "w.yaml", *WEEK, "--quiet", cwd=tmp_path).returncode == 1
    (without, _), day = ids(tmp_path), range(2 * 1440, 3 * 1440)
    assert not set(without) & set(day)
    write(tmp_path, "w.yaml", WORKFLOW.replace("seeing:see", "seeing:look"))
    write(tmp_path, "seeing.py", SEEING.replace("MISHAP", "pass") + "look = see\n")
    refused = cli("backfill", "w.yaml", *WEEK, cwd=tmp_path)
    assert refused.returncode == 2
    assert "error[E0803]: step 'seen' has changed since 5 of 5 shards were begun" in refused.stderr
    done = cli("backfill", "w.yaml", *WEEK, "--accept-changes", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "5 shards done, 4 of them before" in done.stdout
    assert ids(tmp_path)[0] == sorted({*without, *day})


def test_letters_of_shards_are_those_of_the_workflow(tmp_path: Path) -> None:
    rule = "transformations:\n  good: {type: validate, inputs: [rows], config: {rules: [{name: r, expect: 'RULE', on_fail: dead_letter}]}}\n"
    flow = WORKFLOW.replace("transformations:\n", rule).replace(
        "inputs: [rows], config: {function", "inputs: [good], config: {function"
    )
    project(tmp_path)
    write(tmp_path, "w.yaml", flow.replace("RULE", "id % 1000 <> 5"))
    done = cli("backfill", "w.yaml", *WEEK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6 dead letters: see `dataflare dlq show orders`" in done.stderr
    listed = json.loads(cli("dlq", "list", "orders", "--json", cwd=tmp_path).stdout)
    assert sum(each["waiting"] for each in listed) == 6
    write(tmp_path, "w.yaml", flow.replace("RULE", "id >= 0"))
    for rows in (6, 0):
        replayed = json.loads(cli("dlq", "replay", "orders", "--json", cwd=tmp_path).stdout)
        assert (replayed["replayed"], replayed["waiting"]) == (rows, 0)
    assert ids(tmp_path) == ([*range(6000)], [*range(6000)])
