"""Wait until all rows up to a time are committed."""

from __future__ import annotations

import datetime
import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from dataflare.cli.wait import _is_there
from dataflare.observability.view import ProcessView, RunView

TIMED = """\
name: timed
settings: {checkpoint: {interval: 50ms}, parallelism: 2}
sources:
  ticks:
    type: generate
    config: {rate: 2000/s, columns: {id: {sequence: 0}, at: {time: {start: "2026-01-01T00:00:00Z", step: 1ms}}}}
    event_time: {column: at}
destinations:
  out: {type: sqlite, inputs: [ticks], config: {path: out.db, table: t}}
  other: {type: file, inputs: [ticks], config: {path: other/, format: ndjson}}
"""


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "dataflare", *args]


def waited(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("wait", "timed", *args), cwd=folder, capture_output=True, text=True, timeout=60
    )


def test_what_is_earlier_is_there_when_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATAFLARE_HOME", raising=False)
    (tmp_path / "w.yaml").write_text(TIMED)
    run = subprocess.Popen(
        command("run", "w.yaml", "--quiet"), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        while not (tmp_path / ".dataflare" / "timed" / "runs").exists():
            assert run.poll() is None
        for seconds in (1, 2, 3):
            done = waited(tmp_path, "--until", f"2026-01-01T00:00:0{seconds}", "--json")
            assert json.loads(done.stdout) == {"workflow": "timed", "state": "committed"}
            connection = sqlite3.connect(tmp_path / "out.db")
            (rows,) = connection.execute(
                "select count(*) from t where id < ?", (seconds * 1000,)
            ).fetchone()
            connection.close()
            parts = (tmp_path / "other").glob("*.ndjson")
            ids = {json.loads(line)["id"] for part in parts for line in part.open()}
            assert (rows, set(range(seconds * 1000)) <= ids) == (seconds * 1000, True)
        late = waited(tmp_path, "--until", "2030-01-01", "--timeout", "0.1s")
        assert (late.returncode, "E0816" in late.stderr) == (4, True)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
        assert run.returncode == 130, said
    finally:
        if run.poll() is None:
            run.kill()
            run.communicate()
    stopped = waited(tmp_path)
    assert (stopped.returncode, "did not finish" in stopped.stderr) == (1, True)


def test_a_run_that_has_finished_has_committed_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATAFLARE_HOME", raising=False)
    (tmp_path / "w.yaml").write_text(TIMED.replace("rate: 2000/s", "rows: 100"))
    assert subprocess.run(command("run", "w.yaml", "-q"), cwd=tmp_path).returncode == 0
    assert json.loads(waited(tmp_path, "--json").stdout)["state"] == "finished"
    wrong = waited(tmp_path, "--until", "tomorrow")
    assert (wrong.returncode, "--until needs a time" in wrong.stderr) == (2, True)
    wrong = waited(tmp_path, "--timeout", "xyz")
    assert (wrong.returncode, "see 'dataflare wait --help'" in wrong.stderr) == (2, True)


def test_a_run_that_is_still_to_begin_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATAFLARE_HOME", raising=False)
    (tmp_path / "w.yaml").write_text(TIMED.replace("rate: 2000/s", "rows: 100"))
    assert waited(tmp_path).returncode == 2, "it has never run"
    for rows in (100, 200):
        before = datetime.datetime.now(datetime.UTC).isoformat()
        early = waited(tmp_path, "--since", before, "--timeout", "0.1s")
        assert early.returncode == 4, "the run before does not count"
        command_ = command("wait", "timed", "--since", before, "--timeout", "60s")
        with subprocess.Popen(command_, cwd=tmp_path) as waiting:
            text = TIMED.replace("rate: 2000/s", f"rows: {rows}")
            (tmp_path / "w.yaml").write_text(text)
            ran = subprocess.run(command("run", "w.yaml", "-q", "--fresh"), cwd=tmp_path)
            assert (ran.returncode, waiting.wait(60)) == (0, 0)
    future = waited(tmp_path, "--since", "2100-01-01", "--timeout", "0.1s")
    assert future.returncode == 4


def test_a_run_that_does_not_answer_has_committed_nothing_that_is_known() -> None:
    silent = RunView("w", "", "does not answer", 0, 0, 0, ProcessView(0, 0.0))
    assert not _is_there(silent, datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
