"""Look at a run in another process while it runs: `status`, `top`, `tap`."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataflare.errors import RunError
from dataflare.observability.door import ask

LIVE = """\
name: live
settings: {checkpoint: {interval: 50ms}}
sources:
  orders:
    type: generate
    config:
      rate: 2000/s
      columns: {id: {sequence: 0}, email: {choice: [a@x.de, b@y.fr]}, note: {choice: ["s3cret ${secret:KEY}"]}}
transformations:
  odd: {type: filter, inputs: [orders], config: {condition: "id % 2 = 1"}}
  newest: {type: deduplicate, inputs: [odd], config: {key: [id]}}
  hidden: {type: mask, inputs: [newest], config: {columns: {email: email}}}
  named: {type: map, inputs: [orders], config: {derive: {address: "lower(email)", n: "id + 1"}}}
destinations:
  out: {type: sqlite, inputs: [hidden], config: {path: out.db, table: t}}
  raw: {type: sqlite, inputs: [named], config: {path: raw.db, table: t}}
"""


def dataflare(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dataflare", *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a workflow that runs, and has a checkpoint."""
    monkeypatch.setenv("KEY", "verysecret")
    monkeypatch.delenv("DATAFLARE_HOME", raising=False)
    (tmp_path / "live.yaml").write_text(LIVE)
    command = [sys.executable, "-m", "dataflare", "run", "live.yaml", "--quiet"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        while not _rows(tmp_path / "out.db"):
            assert process.poll() is None, process.communicate()[1]
        yield tmp_path
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def _rows(path: Path) -> int:
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return 0
    try:
        return int(connection.execute("select count(*) from t").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def test_a_run_is_looked_at_while_it_runs(running: Path) -> None:
    told = dataflare(running, "status", "--json")
    (view,) = json.loads(told.stdout)
    assert (told.returncode, view["workflow"], view["status"]) == (0, "live", "running")
    assert view["steps"]["out"]["rows_out"] > 0
    assert [stage["name"] for stage in view["stages"]] == ["orders", "newest", "out", "raw"]

    shown = dataflare(running, "status", "live").stdout
    assert "live" in shown.splitlines()[2]
    screen = dataflare(running, "top", "--once", "--every", "0.3")
    assert screen.returncode == 0
    assert "orders + " in screen.stdout
    assert "→ newest by key" in screen.stdout

    tapped = dataflare(
        running, "tap", "live", "newest", "-n", "5", "--rate", "50", "--where", "id > 10"
    )
    rows = [json.loads(line) for line in tapped.stdout.splitlines()]
    assert (tapped.returncode, len(rows)) == (0, 5)
    assert all(row["id"] > 10 and row["id"] % 2 == 1 for row in rows)
    # The step behind hides the column, and the value of a secret is shown nowhere.
    assert {row["email"] for row in rows} == {"***"}
    assert "verysecret" not in tapped.stdout

    # Also where it has another name, on a branch without a mask, and behind the mask it is shown as it leaves.
    beside = json.loads(dataflare(running, "tap", "live", "raw", "-n", "1").stdout)
    assert (beside["email"], beside["address"], type(beside["n"])) == ("***", "***", int)
    behind = json.loads(dataflare(running, "tap", "live", "out", "-n", "1").stdout)
    assert behind["email"] not in ("***", "a@x.de", "b@y.fr")
    guess = dataflare(running, "tap", "live", "raw", "--where", "address like 'a%'")
    assert (guess.returncode, "the workflow masks: address" in guess.stderr) == (2, True)
    wrong = dataflare(running, "tap", "live", "orders")
    assert (wrong.returncode, "E0108" in wrong.stderr, "newest, out, raw" in wrong.stderr) == (
        2,
        True,
        True,
    )
    assert "E0203" in dataflare(running, "tap", "live", "out", "--where", "idd = 1").stderr


@pytest.mark.parametrize("rate", ["inf", "nan", "0", "-5", "10001"])
def test_a_rate_that_no_look_can_have_is_refused(tmp_path: Path, rate: str) -> None:
    refused = dataflare(tmp_path, "tap", "live", "out", "--rate", rate)
    assert (refused.returncode, "--rate" in refused.stderr) == (2, True)


def test_no_question_at_the_door_harms_a_run(running: Path) -> None:
    folder = running / ".dataflare" / "live"
    for per_s in (1e308, float("inf"), float("nan"), -5, "nan", 10**400, None, True):
        with pytest.raises(RunError, match="rows a second") as refused:
            next(ask(folder, "tap", step="out", per_s=per_s))
        assert refused.value.code == "E0404"
    assert "row" in next(each for each in ask(folder, "tap", step="out", per_s=1e4) if each)


def test_the_log_is_followed_and_its_level_changed(running: Path) -> None:
    changed = dataflare(running, "loglevel", "live", "debug", "--component", "checkpoint")
    assert changed.stdout == "all: info\ncheckpoint: debug\n"
    command = [sys.executable, "-m", "dataflare", "logs", "live", "--follow", "--json"]
    following = subprocess.Popen(command, cwd=running, stdout=subprocess.PIPE, text=True)
    assert following.stdout is not None
    components = []
    for text in following.stdout:
        components.append(json.loads(text)["component"])
        if "checkpoint" in components:
            break
    following.kill()
    following.communicate()
    assert components[0] == "run"
    assert "has begun" in dataflare(running, "logs", "live", "-n", "100").stdout
    assert "E0404" in dataflare(running, "loglevel", "live", "loud").stderr
    for level in ([], ["debug"]):
        unknown = dataflare(running, "loglevel", "live", *level, "--component", "nosuch")
        assert unknown.returncode == 2
        assert "one of: run, checkpoint, calls, alerts, otlp, openlineage" in unknown.stderr
    assert "E0815" in dataflare(running, "logs", "live", "--run", "none").stderr


def test_a_run_is_scaled_while_it_runs(running: Path) -> None:
    done = dataflare(running, "scale", "live", "--parallelism", "3", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["workflow"], answer["now"]["parallelism"]) == ("live", 3)
    assert answer["epoch"] > 0
    assert 0 < answer["pause_s"] < 60
    (view,) = json.loads(dataflare(running, "status", "--json").stdout)
    assert {stage["name"]: stage["tasks"] for stage in view["stages"]}["newest"] == 3
    again = dataflare(running, "scale", "live", "--parallelism", "3")
    assert (again.returncode, "as before" in again.stdout) == (0, True)
    for options, code in (
        ((), "E0120"),
        (("--workers", "2"), "E0834"),
        (("--parallelism", "999"), "E0834"),
    ):
        refused = dataflare(running, "scale", "live", *options)
        assert refused.returncode == 2
        assert code in refused.stderr
    nothing = dataflare(running, "scale", "other", "--parallelism", "3")
    assert nothing.returncode == 2
    rows = _rows(running / "out.db")
    while _rows(running / "out.db") <= rows:  # it goes on
        pass
    connection = sqlite3.connect(running / "out.db")
    ids = [n for (n,) in connection.execute("select id from t order by id")]
    connection.close()
    assert ids == list(range(1, 2 * len(ids), 2))


def test_rows_are_as_without_a_look(running: Path) -> None:
    assert dataflare(running, "tap", "live", "out", "-n", "20", "--rate", "1000").returncode == 0
    connection = sqlite3.connect(running / "out.db")
    ids = [n for (n,) in connection.execute("select id from t order by id")]
    connection.close()
    assert ids == list(range(1, 2 * len(ids), 2))


def test_lineage_is_shown(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(
        "name: w\nsources: {a: {type: inline, config: {rows: [{n: 1, m: 2}]}}}\n"
        'transformations: {f: {type: filter, inputs: [a], config: {condition: "m > 1"}}}\n'
        "destinations: {out: {type: blackhole, inputs: [f]}}\n"
    )
    told = dataflare(tmp_path, "lineage", "w.yaml", "--column", "out.n", "--json")
    assert json.loads(told.stdout)["columns"] == {
        "out": {"n": {"values": ["a.n"], "conditions": ["a.m"]}}
    }
    shown = dataflare(tmp_path, "lineage", "w.yaml").stdout.splitlines()
    assert [line.split() for line in shown[2:]] == [
        ["out.n", "a.n", "a.m"],
        ["out.m", "a.m", "a.m"],
    ]
    wrong = dataflare(tmp_path, "lineage", "w.yaml", "--column", "out.nn")
    assert (wrong.returncode, "did you mean 'out.n'" in wrong.stderr) == (2, True)


def test_a_run_does_not_fail_for_its_log_and_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATAFLARE_HOME", raising=False)
    (tmp_path / "w.yaml").write_text(
        "name: w\nsources: {a: {type: inline, config: {rows: [{n: 1}]}}}\n"
        "destinations: {out: {type: stdout, inputs: [a], config: {format: ndjson}}}\n"
    )
    folder = tmp_path / ".dataflare" / "w"
    (folder / "door").mkdir(parents=True)
    (folder / "logs").touch()
    done = dataflare(tmp_path, "run", "w.yaml")
    assert (done.returncode, done.stdout) == (0, '{"n":1}\n')
    assert "cannot look at this run" in done.stderr
    assert "no log of this run is written" in done.stderr


def test_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAFLARE_HOME", str(tmp_path / "home"))
    for command in (["status"], ["top"]):
        said = dataflare(tmp_path, *command)
        assert (said.returncode, said.stdout) == (1, "nothing is running here\n")
    (tmp_path / "w.yaml").write_text(
        "name: w\nsources: {a: {type: inline, config: {rows: [{n: 1}]}}}\n"
        "destinations: {out: {type: blackhole, inputs: [a]}}\n"
    )
    assert dataflare(tmp_path, "run", "w.yaml", "--quiet").returncode == 0
    said = dataflare(tmp_path, "tap", "w", "out")
    assert (said.returncode, "E0814" in said.stderr) == (2, True)
