"""A run that loses a machine goes on from the copies of another one, and reads no state from shared storage."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optional_packages import package
from servers.s3 import KEYS, empty, s3_server
from test_crew import on_workers
from worker_processes import WorkerProcesses

from dataflare.checkpoint.cached_store import CachedStore
from dataflare.checkpoint.chunk_cache import ChunkCache
from dataflare.checkpoint.kept_chunks import KeptChunks, others
from dataflare.checkpoint.object_store import Bucket
from dataflare.checkpoint.snapshots import StateChunk
from dataflare.checkpoint.store import chunk_name
from dataflare.errors import CheckpointError
from dataflare.jobs import RunResult
from dataflare.jobs.progress import Progress

ROWS = 20_000
FILE = """
name: kept
sources:
  numbers: {type: generate, rate: RATE, config: {rows: 20000, seed: 3, columns: {n: {sequence: 0}, user: {int: [1, 997]}}}}
transformations:
  sums: {type: aggregate, inputs: [numbers], config: {group_by: [user], measures: {rows: "count(*)", total: "sum(n)"}}}
  once: {type: deduplicate, inputs: [numbers], config: {key: [user]}}
destinations:
  totals: {type: file, inputs: [sums], config: {path: sums.csv}}
  users: {type: file, inputs: [once], config: {path: users, format: csv}}
settings:
  parallelism: 4
  checkpoint: {interval: 4s, storage: "STORAGE"}
  state: {standby: COPIES}
  restart: {attempts: 2, delay: 0s}
"""


class OnMachines(WorkerProcesses):
    """Each worker has an address and a disk of its own, as if it were on another machine; one that was lost comes back on a new one."""

    def __init__(self, count: int, disks: Path) -> None:
        super().__init__(count)
        self.machines = [*range(count)]
        self.disks = disks

    def command(self, number: int) -> list[str]:
        return self.program(f"127.0.0.{self.machines[number] + 2}", number)

    def environment(self, number: int) -> dict[str, str]:
        disk = self.disks / str(self.machines[number])
        disk.mkdir(parents=True, exist_ok=True)
        return {**os.environ, "TMPDIR": str(disk)}

    def lost(self, number: int) -> None:
        super().lost(number)
        self.machines[number] = max(self.machines) + 1


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    package("moto.server")
    package("obstore")
    with s3_server() as address:
        yield address


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    empty(endpoint, "state")
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    return Bucket("s3://state/checkpoints")


def lose_a_machine(folder: Path, bucket: Bucket, copies: int) -> tuple[RunResult, OnMachines]:
    """Kill a worker, when all state in the bucket is overwritten with other bytes: who reads it there fails."""
    folder.mkdir(exist_ok=True)
    text = FILE.replace("STORAGE", bucket.url).replace("COPIES", str(copies))
    workers = OnMachines(3, folder / "disks")
    seen: list[int] = []

    def listen(progress: Progress) -> None:
        seen.append(progress.checkpoints)
        # A look after a checkpoint: the copies are made, and the next one is seconds away.
        is_next = len(seen) > 2 and seen[-3] < seen[-2] == seen[-1] >= 2
        if is_next and workers.starts == 3:
            for name in bucket.names("kept/"):
                if "/chunks/" in name:
                    data = bucket.get(name)
                    assert data is not None
                    bucket.put(name, bytes(len(data)))
            process = workers.processes[1]
            assert process is not None
            os.kill(process.pid, signal.SIGKILL)

    try:
        slow = text.replace("RATE", f"{ROWS // 16}/s")
        result = on_workers(folder, slow, workers, listener=listen)
    finally:
        workers.close()
    return result, workers


def results(folder: Path) -> tuple[list[str], list[str]]:
    frames = [pl.read_csv(path) for path in (folder / "users").glob("*.csv")]
    users = sorted(str(user) for user in pl.concat(frames)["user"])
    return sorted((folder / "sums.csv").read_text().splitlines()), users


def test_recovery_reads_no_state_from_shared_storage(tmp_path: Path, bucket: Bucket) -> None:
    result, workers = lose_a_machine(tmp_path / "lost", bucket, 1)
    assert result.status == "finished", result.error and (result.error, result.error.notes)
    assert workers.starts == 4
    assert [w for w in result.warnings if "E0830" in w or "E0831" in w], "an attempt failed"

    (tmp_path / "one").mkdir()
    plain = FILE.replace("STORAGE", "state").replace("COPIES", "0").replace("RATE", "1000000/s")
    assert on_workers(tmp_path / "one", plain, None).status == "finished"
    assert results(tmp_path / "lost") == results(tmp_path / "one")


def test_without_copies_the_state_is_read_from_there(tmp_path: Path, bucket: Bucket) -> None:
    result, _ = lose_a_machine(tmp_path / "lost", bucket, 0)
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.code == "E0701"


def test_a_folder_has_copies_too(tmp_path: Path) -> None:
    lineage = "0123abcd-0000-4000-8000-000000000000"
    caches = [ChunkCache(tmp_path / f"disk{number}", lineage) for number in range(2)]
    one, other = (CachedStore(tmp_path / "shared", lineage, cache) for cache in caches)
    frame = pl.DataFrame({"k": [1, 2, 3]})
    made = one.write_chunk(chunk_name("s", 0, 1, 1, 1), frame)
    other.warm(made)
    path = one.home / "chunks" / made.name
    path.unlink()
    assert one.read_chunk(made).equals(frame)
    assert other.read_chunk(made).equals(frame)
    assert (caches[0].misses, caches[1].misses) == (0, 1)
    third = CachedStore(tmp_path / "shared", lineage, ChunkCache(tmp_path / "disk3", lineage))
    with pytest.raises(CheckpointError) as missing:
        third.warm(made)
    assert missing.value.code == "E0701"


hosts = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12)


@given(hosts, st.integers(0, 3), st.sets(st.integers(0, 11)))
def test_copies_are_on_as_many_other_machines_as_there_are(
    all_hosts: list[str], copies: int, among: set[int]
) -> None:
    for number, host in enumerate(all_hosts):
        found = [*others(number, all_hosts, copies, among)]
        there = {all_hosts[n] for n in among if n < len(all_hosts)} - {host}
        assert among.issuperset(found)
        assert len(found) == min(copies, len(there))
        found = [*others(number, all_hosts, copies)]
        machines = {all_hosts[other] for other in found}
        assert host not in machines
        assert len(machines) == len(found) == min(copies, len(set(all_hosts)) - 1)


def chunk(number: int) -> StateChunk:
    return StateChunk(f"s-0-a1-{1:010d}-{number}.arrow", 1, 1, "0" * 16)


def test_what_is_no_longer_state_is_forgotten() -> None:
    kept = KeptChunks()
    for number in range(5_000):
        state = [chunk(number), chunk(number + 1)]
        kept.name("s[0]", state)
        kept.put("a", state)
        assert kept.has_all(["b", "a"], state) == {1}
    assert kept.missing("a", [chunk(0)])
    assert not kept.missing("a", [chunk(5_000)])
