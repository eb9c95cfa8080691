"""`dataflare dlq`: letters are counted, shown, thrown away, and brought in again once each."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from command_line import answer, cli, write

pytestmark = pytest.mark.rotates(2)

BAD = """\
name: letters
settings: {parallelism: 2, error_handling: {on_error: dead_letter}}
sources:
  raw: {type: file, config: {path: raw.csv}, schema: {id: int64, amount: string}}
transformations:
  named: {type: map, inputs: [raw], config: {rename: {amount: text}}}
  typed: {type: map, inputs: [named], config: {derive: {amount: "CAST(text AS BIGINT)"}}}
destinations:
  out: {type: file, inputs: [typed], config: {path: out.csv}}
  table: {type: sqlite, inputs: [typed], config: {path: t.db, table: rows}}
"""
GOOD = BAD.replace("CAST(text AS BIGINT)", "CAST(replace(text, 'x', '') AS BIGINT)")
IDS = list(range(40))


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """A folder in which the workflow has run and refused every fourth row."""
    rows = [f"{i},{'x' if i % 4 == 0 else ''}{i * 10}" for i in IDS]
    write(tmp_path, "raw.csv", "id,amount\n" + "\n".join(rows) + "\n")
    write(tmp_path, "w.yaml", BAD)
    done = cli("run", "w.yaml", "--json", cwd=tmp_path)
    assert answer(done)["steps"]["typed"]["dead_letters"] == 10
    return tmp_path


def arrived(folder: Path) -> list[int]:
    with sqlite3.connect(folder / "t.db") as database:
        found = [each for (each,) in database.execute("select id from rows order by id")]
    lines = (folder / "out.csv").read_text().splitlines()[1:]
    assert sorted(int(line.split(",")[0]) for line in lines) == found
    return found


def waiting(folder: Path) -> int:
    said = json.loads(cli("dlq", "list", "letters", "--json", cwd=folder).stdout)
    return sum(group["waiting"] for group in said)


def test_letters_are_listed_and_shown(ran: Path) -> None:
    done = cli("dlq", "list", "letters", cwd=ran)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2].split()[:4:2] == ["typed", "10"]
    done = cli("dlq", "show", "letters", "--limit", "2", cwd=ran)
    assert done.stdout.splitlines()[-1] == "and 8 more letters"
    done = cli("dlq", "show", "letters", "--json", "--step", "typed", cwd=ran)
    rows = [json.loads(line)["row"] for line in done.stdout.splitlines()]
    assert [row["id"] for row in rows] == IDS[::4]
    assert cli("dlq", "show", "letters", "--json", "--step", "no", cwd=ran).stdout == ""


def test_replayed_rows_come_in_once_however_often(ran: Path) -> None:
    write(ran, "w.yaml", GOOD)
    said = answer(cli("dlq", "replay", "letters", "--json", cwd=ran))
    assert (said["replayed"], said["refused_again"], said["waiting"]) == (10, 0, 0)
    assert arrived(ran) == IDS
    (run_id,) = said["run_ids"]
    assert len(run_id) == 26
    again = answer(cli("dlq", "replay", "letters", "--json", cwd=ran))
    assert again["run_ids"] == []
    assert (again["replayed"], again["waiting"]) == (0, 0)
    assert arrived(ran) == IDS
    assert waiting(ran) == 0


def test_rows_that_fail_again_become_letters_again(ran: Path) -> None:
    said = answer(cli("dlq", "replay", "letters", "--json", cwd=ran))
    assert (said["replayed"], said["refused_again"], said["waiting"]) == (10, 10, 10)
    done = cli("dlq", "replay", "letters", cwd=ran)
    told = "10 rows tried again, 10 refusals; 10 waiting\n"
    assert (done.returncode, done.stdout, "new letter" in done.stderr) == (1, told, True)
    write(ran, "w.yaml", GOOD)
    assert answer(cli("dlq", "replay", "letters", "--json", cwd=ran))["waiting"] == 0
    assert arrived(ran) == IDS


@pytest.mark.parametrize(
    "place",
    [
        "replay.batch_written",
        "checkpoint.before_publish",
        "file.commit.before_publish",
        "file.commit.after_publish",
        "replay.finished",
        "replay.after_ledger",
    ],
)
def test_a_replay_that_is_killed_brings_each_row_in_once(place: str, ran: Path) -> None:
    write(ran, "w.yaml", GOOD)
    killed = cli("dlq", "replay", "letters", cwd=ran, DATAFLARE_CRASH_AT=place)
    assert killed.returncode == -9
    done = cli("dlq", "replay", "letters", cwd=ran)
    assert done.returncode == 0, done.stderr
    assert arrived(ran) == IDS
    assert waiting(ran) == 0
    assert not list((ran / ".dataflare/letters/replay").glob("batch_*"))


def test_a_replay_that_fails_is_given_up_and_goes_as_the_file_says_next(ran: Path) -> None:
    write(ran, "w.yaml", BAD.replace("on_error: dead_letter", "on_error: fail"))
    done = cli("dlq", "replay", "letters", cwd=ran)
    assert done.returncode == 1
    assert "error[E05" in done.stderr
    write(ran, "w.yaml", GOOD.replace("named", "renamed"))
    assert cli("dlq", "replay", "letters", cwd=ran).returncode == 0
    assert arrived(ran) == IDS


def test_a_step_that_needs_all_rows_is_not_given_some(ran: Path) -> None:
    total = "  total: {type: aggregate, inputs: [typed], config: {measures: {n: 'count(*)'}}}\n"
    text = GOOD.replace("destinations:", total + "destinations:")
    write(ran, "w.yaml", text + "  n: {type: stdout, inputs: [total], config: {}}\n")
    done = cli("dlq", "replay", "letters", cwd=ran)
    assert "10 letters not replayed: step 'total' needs all of its rows" in done.stderr
    assert len(arrived(ran)) == 30
    assert waiting(ran) == 10


def test_purged_letters_are_gone(ran: Path) -> None:
    assert cli("dlq", "purge", "letters", cwd=ran).returncode == 2
    kept = cli("dlq", "purge", "letters", "--before", "1d", "--yes", cwd=ran)
    assert kept.stdout == "nothing to purge\n"
    done = cli("dlq", "purge", "letters", "--step", "typed", "--yes", cwd=ran)
    assert done.stdout == "10 letters purged\n"
    assert waiting(ran) == 0
    assert not list((ran / ".dataflare/letters/dead_letters").glob("*.ndjson"))


def test_letters_of_a_source_say_what_to_do(ran: Path) -> None:
    rows = (ran / "raw.csv").read_text() + "forty,1\n"
    (ran / "raw.csv").write_text(rows)
    write(ran, "w.yaml", GOOD)
    assert cli("run", "w.yaml", cwd=ran).returncode == 0
    done = cli("dlq", "replay", "letters", "--step", "raw", cwd=ran)
    assert "1 letter not replayed: source 'raw': they still cannot be read" in done.stderr
    assert "raw.csv line 42" in done.stderr


def test_a_workflow_that_never_ran_and_a_file_that_is_gone_are_named(ran: Path) -> None:
    assert "E0121" in cli("dlq", "list", "other", cwd=ran).stderr
    (ran / "w.yaml").rename(ran / "moved.yaml")
    assert "--file" in cli("dlq", "replay", "letters", cwd=ran).stderr
    assert waiting(ran) == 10
    assert cli("dlq", "replay", "letters", "--file", "moved.yaml", cwd=ran).returncode == 1


@pytest.mark.parametrize(
    "act", [["list"], ["show"], ["replay"], ["purge", "--yes"]], ids=lambda a: a[0]
)
def test_letters_in_a_database_are_looked_at_there(act: list[str], tmp_path: Path) -> None:
    write(tmp_path, "raw.csv", "id,amount\n1,x\n2,7\n")
    elsewhere = (
        "on_error: dead_letter, dead_letter: {type: sqlite, config: {path: d.db, table: dead}}"
    )
    write(tmp_path, "w.yaml", BAD.replace("on_error: dead_letter", elsewhere))
    assert cli("run", "w.yaml", "--quiet", cwd=tmp_path).returncode == 0
    with sqlite3.connect(tmp_path / "d.db") as database:
        assert database.execute("select step, code from dead").fetchall() == [("typed", "E0512")]
    done = cli("dlq", act[0], "letters", *act[1:], cwd=tmp_path)
    assert done.returncode == 2
    assert "error[E0123]: the dead letters of 'letters' go to a destination" in done.stderr


def test_a_replay_is_among_the_runs_with_its_log_and_its_report(ran: Path) -> None:
    write(ran, "w.yaml", GOOD)
    replayed = json.loads(cli("dlq", "replay", "letters", "--json", cwd=ran).stdout)
    (run_id,) = replayed["run_ids"]
    newest, before = json.loads(cli("runs", "letters", "--json", cwd=ran).stdout)
    assert (newest["run_id"], newest["workflow"], newest["kind"]) == (run_id, "letters", "replay")
    assert (newest["status"], newest["counts"]["out"]["rows_in"]) == ("finished", 10)
    assert before["kind"] == "run"
    line = cli("runs", cwd=ran).stdout.splitlines()[2]
    assert line.startswith(run_id)
    assert line.endswith("replay of dead letters")
    lines = cli("logs", "letters", "--run", run_id, "--json", cwd=ran).stdout.splitlines()
    assert {json.loads(each)["workflow"] for each in lines} == {"letters"}
    assert "finished after" in lines[-1]
    report = json.loads(cli("report", run_id, "--json", cwd=ran).stdout)
    assert report["workflow"] == "letters"
    # What the next run goes on from, and the newest report and log, are those of the workflow's own run.
    assert (
        json.loads(cli("report", "letters", "--json", cwd=ran).stdout)["run_id"] == before["run_id"]
    )
    assert (
        answer(cli("run", "w.yaml", "--json", "--accept-changes", cwd=ran))["status"] == "finished"
    )
    assert len(json.loads(cli("runs", "letters", "--json", cwd=ran).stdout)) == 3


def test_a_replay_that_failed_or_was_killed_is_among_the_runs(ran: Path) -> None:
    write(ran, "w.yaml", GOOD)
    killed = cli("dlq", "replay", "letters", cwd=ran, DATAFLARE_CRASH_AT="engine.after_manifest")
    assert killed.returncode < 0
    assert len(json.loads(cli("runs", "letters", "--json", cwd=ran).stdout)) == 1
    assert cli("dlq", "replay", "letters", cwd=ran).returncode == 0
    found = json.loads(cli("runs", "letters", "--json", cwd=ran).stdout)
    assert [(each["kind"], each["status"]) for each in found] == [
        ("replay", "finished"),
        ("replay", "killed"),
        ("run", "finished"),
    ]


@pytest.mark.parametrize(("sequence", "kept"), [("", "old"), (", sequence: at", "new")])
def test_a_replayed_row_over_a_newer_one_is_told(tmp_path: Path, sequence: str, kept: str) -> None:
    flow = """\
name: w
sources:
  s: {type: file, config: {path: in.csv}}
transformations:
  v: {type: validate, inputs: [s], config: {rules: [{name: r, expect: "RULE", on_fail: dead_letter}]}}
destinations:
  a: {type: sqlite, inputs: [v], config: {path: o.db, table: t, mode: upsert, key: [id]SEQUENCE}}
""".replace("SEQUENCE", sequence)
    write(tmp_path, "in.csv", "id,at,v\n1,1,old\n")
    write(tmp_path, "w.yaml", flow.replace("RULE", "v <> 'old'"))
    assert cli("run", "w.yaml", "--quiet", cwd=tmp_path).returncode == 0
    write(tmp_path, "in.csv", "id,at,v\n1,2,new\n")
    assert cli("run", "w.yaml", "--quiet", cwd=tmp_path).returncode == 0
    write(tmp_path, "w.yaml", flow.replace("RULE", "id > 0"))
    done = cli("dlq", "replay", "w", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("also where these were newer" in done.stderr) == (not sequence)
    with sqlite3.connect(tmp_path / "o.db") as db:
        assert db.execute("select id, v from t").fetchall() == [(1, kept)]


def test_a_replay_judges_no_alerts(tmp_path: Path) -> None:
    """They are about a run of the workflow: they are not told, and a rule about all rows does not fail the replay."""
    gate = "{name: enough, broken_when: 'rows < 5', on_fail: fail}, {name: named, expect: 'id <> 5', allowed: 20%, on_fail: fail}"
    workflow = f"""\
name: letters
sources:
  raw: {{type: file, config: {{path: raw.csv}}, schema: {{id: int64, amount: int64}}, error_handling: {{on_error: dead_letter}}}}
transformations:
  checked: {{type: validate, inputs: [raw], config: {{rules: [{gate}]}}}}
destinations: {{out: {{type: sqlite, inputs: [checked], config: {{path: t.db, table: rows}}}}}}
alerts: [{{name: few, when: "rows < 5", notify: c}}, {{name: bad, when: "dead_letters > 0", notify: c}}]
notifiers: {{c: {{type: command, command: [sh, -c, "cat >> told; echo >> told"]}}}}
"""
    write(tmp_path, "w.yaml", workflow)
    rows = "id,amount\n" + "".join(f"{i},{'x' if i == 5 else i}\n" for i in range(10))
    write(tmp_path, "raw.csv", rows)
    cli("run", "w.yaml", "--quiet", cwd=tmp_path)
    (told,) = (tmp_path / "told").read_text().splitlines()
    assert json.loads(told)["alert"] == "bad"
    write(tmp_path, "raw.csv", rows.replace("x", "5"))
    said = answer(cli("dlq", "replay", "letters", "--json", cwd=tmp_path))
    assert (said["replayed"], said["waiting"], said["error"]) == (1, 0, None)
    assert (tmp_path / "told").read_text().splitlines() == [told]
    with sqlite3.connect(tmp_path / "t.db") as database:
        assert database.execute("select count(*) from rows").fetchone() == (10,)
