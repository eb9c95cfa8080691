"""`checkpoints list | show | verify | delete`, `savepoint`, and `plan --against`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from command_line import cli, command, environment, write

TICKS = """\
name: ticks
settings: {checkpoint: {interval: 50ms}}
sources:
  clock: {type: generate, config: {rows: 100000, rate: 3000/s, columns: {n: {sequence: 0}, key: {int: [1, 9]}}}}
transformations:
  totals: {type: aggregate, inputs: [clock], config: {group_by: [key], measures: {rows: "count(*)"}}}
destinations:
  out: {type: sqlite, inputs: [totals], config: {path: out.db, table: t}}
"""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workflow that was stopped, with a savepoint `before`."""
    folder = tmp_path_factory.mktemp("stopped")
    write(folder, "ticks.yaml", TICKS)
    assert cli("run", "ticks.yaml", "--for", "500ms", "-q", cwd=folder).returncode == 0
    taken = cli("savepoint", "ticks", "before", "--json", cwd=folder)
    assert taken.returncode == 0, taken.stderr
    assert json.loads(taken.stdout)["savepoint"] == "before"
    return folder


def test_list_has_checkpoints_and_savepoints(stopped: Path) -> None:
    listed = json.loads(cli("checkpoints", "list", "ticks", "--json", cwd=stopped).stdout)
    assert listed == json.loads(cli("checkpoints", "ticks", "--json", cwd=stopped).stdout)
    assert [each["savepoint"] for each in listed if "savepoint" in each] == ["before"]
    newest = max(each["epoch"] for each in listed if "savepoint" not in each)
    shown = cli("checkpoints", "show", "ticks", "--json", cwd=stopped)
    assert json.loads(shown.stdout)["epoch"] == newest
    for words in (["show", "ticks", "before"], ["ticks", "before"]):
        said = cli("checkpoints", *words, cwd=stopped).stdout
        assert f"savepoint before, of checkpoint {newest}" in said
        assert "totals" in said


def test_verify_reads_everything(stopped: Path, tmp_path: Path) -> None:
    verified = cli("checkpoints", "verify", "ticks", "--json", cwd=stopped)
    assert verified.returncode == 0
    assert all(each["usable"] for each in json.loads(verified.stdout))
    done = cli("checkpoints", "verify", "ticks", "4711", cwd=stopped)
    assert (done.returncode, "E0122" in done.stderr) == (2, True)


def test_delete_spares_what_the_next_run_needs(tmp_path: Path) -> None:
    write(tmp_path, "ticks.yaml", TICKS)
    assert cli("run", "ticks.yaml", "--for", "600ms", "-q", cwd=tmp_path).returncode == 0
    assert cli("savepoint", "ticks", "x", cwd=tmp_path).returncode == 0
    epochs = [
        each["epoch"]
        for each in json.loads(cli("checkpoints", "ticks", "--json", cwd=tmp_path).stdout)
        if "savepoint" not in each
    ]
    done = cli("checkpoints", "delete", "ticks", str(epochs[0]), "--yes", cwd=tmp_path)
    assert (done.returncode, "resumes from checkpoint" in done.stderr) == (2, True)
    done = cli("checkpoints", "delete", "ticks", "x", cwd=tmp_path)
    assert (done.returncode, "--yes" in done.stderr) == (2, True)
    done = cli(
        "checkpoints", "delete", "ticks", "x", "--keep", "0", "--yes", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["deleted"], answer["savepoints"]) == (sorted(epochs[1:]), ["x"])
    (left,) = json.loads(cli("checkpoints", "ticks", "--json", cwd=tmp_path).stdout)
    assert (left["epoch"], left["usable"]) == (epochs[0], True)
    assert cli("checkpoints", "verify", "ticks", cwd=tmp_path).returncode == 0
    assert cli("checkpoints", "delete", "ticks", cwd=tmp_path).returncode == 2


def test_a_savepoint_of_a_run_that_goes_on(tmp_path: Path) -> None:
    write(tmp_path, "ticks.yaml", TICKS.replace("interval: 50ms", "interval: 1h"))
    process = subprocess.Popen(
        command("run", "ticks.yaml", "-q"), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE
    )
    try:
        while not list(tmp_path.glob(".dataflare/ticks/current.json")):
            assert process.poll() is None
        taken = cli("savepoint", "ticks", "live", "--json", cwd=tmp_path)
        assert taken.returncode == 0, taken.stderr
        assert process.poll() is None, "it goes on"
    finally:
        process.terminate()
        process.communicate()
    assert json.loads(taken.stdout)["epoch"] == 1
    assert cli("checkpoints", "verify", "ticks", "live", cwd=tmp_path).returncode == 0


def test_plan_against_says_what_becomes_of_each_step(stopped: Path) -> None:
    changed = TICKS.replace("totals: {type", "sums: {was: totals, type").replace(
        "[totals]", "[sums]"
    )
    write(stopped, "changed.yaml", changed.replace("group_by: [key]", "group_by: [n]"))
    done = cli("plan", "changed.yaml", "--against", "before", "--json", cwd=stopped)
    answer = json.loads(done.stdout)
    assert answer["possible"] is False
    states = {each["step"]: each["state"] for each in answer["steps"]}
    assert states == {"clock": "kept", "sums": "impossible", "out": "kept"}
    write(stopped, "renamed.yaml", changed)
    done = cli("plan", "renamed.yaml", "--against", "before", cwd=stopped)
    assert done.returncode == 0, done.stderr
    assert "sums (was totals)" in done.stdout
    assert "is possible" in done.stdout
    done = cli("plan", "renamed.yaml", "--against", "never", cwd=stopped)
    assert (done.returncode, "E0809" in done.stderr) == (2, True)


def test_from_and_fresh_exclude_each_other(stopped: Path) -> None:
    done = cli("run", "ticks.yaml", "--from", "before", "--fresh", cwd=stopped)
    assert (done.returncode, "E0120" in done.stderr) == (2, True)
