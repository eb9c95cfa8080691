"""Jobs that live in actors of a real Ray cluster: what a command shows and returns is what it does in one process."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from ray_cluster import RayCluster, ray_cluster, until

from dataflare.cli.living import view_of
from dataflare.observability.view import RunView

ROWS = 12_000

FILE = """
name: counted
sources: {numbers: {type: generate, config: {rows: 20000, seed: 1, columns: {k: {int: [0, 9]}, v: {int: [0, 99]}}}}}
transformations:
  sums: {type: aggregate, inputs: [numbers], config: {group_by: [k], measures: {n: "count(*)", total: "sum(v)"}}}
destinations: {out: {type: file, inputs: [sums], config: {path: out, format: csv}}}
"""


FILES = """
name: copied
sources: {numbers: {type: file, config: {path: "in/*.csv"}}}
destinations: {out: {type: file, inputs: [numbers], config: {path: out, format: csv}}}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster(2, client=True) as made:
        made.add(1)
        yield made


def run(cluster: RayCluster, folder: Path, *options: str) -> tuple[int, dict[str, object], str]:
    command = [sys.executable, "-m", "dataflare", "run", "w.yaml", "--json", *options]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=cluster.environment
    )
    return done.returncode, json.loads(done.stdout), done.stderr


def rows(folder: Path) -> list[str]:
    return sorted(
        line
        for part in (folder / "out").glob("*.csv")
        for line in part.read_text().splitlines()[1:]
    )


def test_auto_and_a_client_give_what_one_process_gives(cluster: RayCluster, tmp_path: Path) -> None:
    texts, steps = {}, {}
    for where in ("one", "auto", cluster.client_address):
        folder = tmp_path / where.replace("/", "_")
        folder.mkdir()
        (folder / "w.yaml").write_text(FILE)
        options = ("--cluster", where) if where != "one" else ()
        status, result, told = run(cluster, folder, *options)
        assert (status, result["status"]) == (0, "finished"), told
        texts[where], steps[where] = rows(folder), result["steps"]
    assert texts["auto"] == texts["one"] == texts[cluster.client_address]
    assert steps["auto"] == steps["one"] == steps[cluster.client_address]
    assert len(texts["one"]) == 10


def test_paths_are_relative_to_the_file_wherever_the_job_is(
    cluster: RayCluster, tmp_path: Path
) -> None:
    (tmp_path / "w.yaml").write_text(FILES)
    (tmp_path / "in").mkdir()
    for part in range(3):
        (tmp_path / f"in/{part}.csv").write_text(f"id\n{part}\n")
    status, result, told = run(cluster, tmp_path, "--cluster", "auto")
    assert (status, result["status"]) == (0, "finished"), told
    assert rows(tmp_path) == ["0", "1", "2"]


SLOW = """
name: slow
sources:
  events:
    type: generate
    config: {rows: %d, seed: 3, %s columns: {n: {sequence: 0}, user: {int: [1, 97]}, amount: {int: [0, 999]}}}
transformations:
  sums: {type: aggregate, inputs: [events], config: {group_by: [user], measures: {n: "count(*)", total: "sum(amount)"}}}
destinations:
  sums_out: {type: sqlite, inputs: [sums], config: {path: out.sqlite, table: sums, mode: append}}
  rows_out: {type: file, inputs: [events], config: {path: rows, format: csv}}
settings:
  checkpoint: {interval: 200ms}
  restart: {attempts: 20, delay: 0s}
"""


def command(cluster: RayCluster, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dataflare", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=cluster.environment,
    )


def started(cluster: RayCluster, folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dataflare", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=cluster.environment,
    )


def view(folder: Path) -> RunView | None:
    """The run of the workflow in this folder."""
    return view_of(folder / ".dataflare" / "slow")


def rows_read(folder: Path) -> int:
    seen = view(folder)
    return 0 if seen is None or "events" not in seen.steps else seen.steps["events"].rows_out or 0


def is_another(folder: Path, processes: set[int]) -> bool:
    """Whether the run reads rows in a process that is not one of these."""
    seen = view(folder)
    return seen is not None and seen.process.pid not in {0, *processes} and rows_read(folder) > 0


def content(folder: Path) -> tuple[list[object], list[str]]:
    with closing(sqlite3.connect(folder / "out.sqlite")) as database:
        sums = database.execute('select * from "sums" order by 1').fetchall()
    lines = [
        line
        for part in (folder / "rows").glob("*.csv")
        for line in part.read_text().splitlines()[1:]
    ]
    return sums, sorted(lines)


@pytest.fixture(scope="module")
def plain(cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process writes."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "w.yaml").write_text(SLOW % (ROWS, ""))
    done = command(cluster, folder, "run", "w.yaml", "-q")
    assert done.returncode == 0, done.stderr
    return folder


def test_a_detached_job_is_found_waited_for_and_stopped(
    cluster: RayCluster, plain: Path, tmp_path: Path
) -> None:
    (tmp_path / "w.yaml").write_text(SLOW % (ROWS, "rate: 100/s,"))
    begun = command(cluster, tmp_path, "run", "w.yaml", "--cluster", "auto", "--detach", "--json")
    assert (begun.returncode, json.loads(begun.stdout)["status"]) == (0, "running"), begun.stderr
    run_id = json.loads(begun.stdout)["run_id"]
    until(lambda: rows_read(tmp_path) > 0, 60, "it reads nothing")
    again = command(cluster, tmp_path, "run", "w.yaml", "--cluster", "auto")
    assert (again.returncode, "E0801" in again.stderr) == (1, True), again.stderr
    for where in ((), ("--cluster", "auto")):
        shown = command(cluster, tmp_path, "status", "slow", "--json", *where)
        (seen,) = json.loads(shown.stdout)
        assert (seen["run_id"], seen["status"]) == (run_id, "running"), shown.stderr
    nodes = json.loads(command(cluster, tmp_path, "nodes", "--json").stdout)
    assert len(nodes["nodes"]) == 2
    (job,) = (job for job in nodes["jobs"] if job["job"] == f"slow {run_id}")
    assert len(job["workers"]) == 3
    seen_workers = job["run"]["workers"]
    assert {*job["workers"]} <= seen_workers.keys()
    assert any(sum(worker["sent_bytes"].values()) for worker in seen_workers.values())
    shown = command(cluster, tmp_path, "nodes").stdout
    assert "% busy" in shown
    assert f"slow {run_id}" in shown
    stopped = command(cluster, tmp_path, "stop", "slow", "--json")
    assert (stopped.returncode, json.loads(stopped.stdout)["run_id"]) == (0, run_id), stopped.stderr
    last = json.loads(command(cluster, tmp_path, "runs", "slow", "--json").stdout)[0]
    assert (last["run_id"], last["status"]) == (run_id, "stopped")
    (tmp_path / "w.yaml").write_text(SLOW % (ROWS, ""))
    options = ("--cluster", "auto", "--accept-changes", "--json")
    done = command(cluster, tmp_path, "run", "w.yaml", *options)
    assert json.loads(done.stdout)["resumed_from"] is not None, done.stderr
    assert content(tmp_path) == content(plain)


def test_a_detached_job_gets_another_size(cluster: RayCluster, plain: Path, tmp_path: Path) -> None:
    text = SLOW % (ROWS, "rate: 400/s,")
    (tmp_path / "w.yaml").write_text(f"{text}\n  cluster: {{workers: 1}}\n")
    begun = command(cluster, tmp_path, "run", "w.yaml", "--cluster", "auto", "--detach", "--json")
    assert begun.returncode == 0, begun.stderr
    until(lambda: rows_read(tmp_path) > 0, 60, "it reads nothing")
    options = ("--cluster", "auto", "--json")
    scaled = command(cluster, tmp_path, "scale", "slow", "--workers", "2", *options)
    assert scaled.returncode == 0, scaled.stderr
    assert json.loads(scaled.stdout)["now"]["workers"] == 2
    refused = command(cluster, tmp_path, "scale", "slow", "--workers", "2000", *options)
    assert (refused.returncode, "E0834" in refused.stdout) == (2, True), refused.stderr
    other = command(cluster, tmp_path, "scale", "other", "--workers", "2", *options)
    assert (other.returncode, "E0814" in other.stdout) == (2, True), other.stderr
    waited = command(cluster, tmp_path, "wait", "slow", "--timeout", "2m")
    assert waited.returncode == 0, waited.stderr
    assert content(tmp_path) == content(plain)


def test_a_killed_command_leaves_its_job(cluster: RayCluster, plain: Path, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(SLOW % (ROWS, "rate: 3000/s,"))
    begun = started(cluster, tmp_path, "run", "w.yaml", "--cluster", "auto")
    until(lambda: rows_read(tmp_path) > 0, 60, "it reads nothing")
    begun.kill()
    begun.communicate()
    waited = command(cluster, tmp_path, "wait", "slow", "--timeout", "2m")
    assert waited.returncode == 0, waited.stderr
    assert content(tmp_path) == content(plain)


@pytest.mark.parametrize("seed", range(2))
def test_the_process_of_a_job_is_killed_and_nothing_is_lost(
    cluster: RayCluster, plain: Path, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    (tmp_path / "w.yaml").write_text(SLOW % (ROWS, "rate: 2500/s,"))
    running = started(cluster, tmp_path, "run", "w.yaml", "--cluster", "auto", "--json")
    processes: set[int] = set()
    for _ in range(2):
        wanted = chance.randint(0, ROWS // 4)
        until(lambda wanted=wanted: rows_read(tmp_path) > wanted, 60, "it reads nothing")
        workers = {*cluster.pids("ray::WorkerActor")}
        seen = view(tmp_path)
        assert seen is not None
        processes.add(seen.process.pid)
        os.kill(seen.process.pid, signal.SIGKILL)
        until(lambda: is_another(tmp_path, processes), 60, "no other process goes on")
        assert workers == {*cluster.pids("ray::WorkerActor")}, "they are used again"
    told, errors = running.communicate(timeout=120)
    result = json.loads(told)
    assert (running.returncode, result["status"]) == (0, "finished"), errors
    assert any("process of the job was lost" in warning for warning in result["warnings"])
    assert content(tmp_path) == content(plain)


def test_a_signal_lets_the_job_take_a_checkpoint(
    cluster: RayCluster, plain: Path, tmp_path: Path
) -> None:
    (tmp_path / "w.yaml").write_text(SLOW % (ROWS, "rate: 2000/s,"))
    running = started(cluster, tmp_path, "run", "w.yaml", "--cluster", "auto", "--json")
    until(lambda: rows_read(tmp_path) > 0, 60, "it reads nothing")
    running.send_signal(signal.SIGINT)
    told, errors = running.communicate(timeout=60)
    assert (running.returncode, json.loads(told)["status"]) == (130, "stopped"), errors
    done = command(cluster, tmp_path, "run", "w.yaml", "--cluster", "auto", "--json")
    assert json.loads(done.stdout)["resumed_from"] is not None, done.stderr
    assert content(tmp_path) == content(plain)


def test_the_keeper_is_killed_then_the_head_and_the_same_command_goes_on(
    cluster: RayCluster, plain: Path, tmp_path: Path
) -> None:
    (tmp_path / "w.yaml").write_text(SLOW % (ROWS, "rate: 100/s,"))
    run = ("run", "w.yaml", "--cluster", "auto", "--accept-changes", "--json")
    with ray_cluster(2) as other:
        running = started(other, tmp_path, *run)
        until(lambda: rows_read(tmp_path) > 0, 90, "it reads nothing")
        workers, keepers = {*other.pids("ray::WorkerActor")}, {*other.pids("ray::ClusterActor")}
        other.kill("ray::ClusterActor")
        until(lambda: {*other.pids("ray::ClusterActor")} - keepers, 60, "no other keeper")
        read = rows_read(tmp_path)
        until(lambda: rows_read(tmp_path) > read, 60, "it stands still")
        nodes = json.loads(command(other, tmp_path, "nodes", "--json").stdout)
        assert [len(worker["jobs"]) for worker in nodes["workers"]] == [1, 1]
        assert workers == {*other.pids("ray::WorkerActor")}
        other.kill("gcs_server")
        told, errors = running.communicate(timeout=90)
        error = json.loads(told)["error"]
        assert (running.returncode, error["code"]) == (1, "E0840"), errors
        assert "run the same command" in error["help"]
    (tmp_path / "w.yaml").write_text(SLOW % (ROWS, ""))
    done = command(cluster, tmp_path, *run)
    assert json.loads(done.stdout)["resumed_from"] is not None, done.stderr
    assert content(tmp_path) == content(plain)
