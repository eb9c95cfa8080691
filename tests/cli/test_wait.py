"""Wait until all rows up to a time are committed."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

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
        assert (late.returncode, "E0816" in late.stderr) == (1, True)
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
