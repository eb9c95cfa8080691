"""Checkpoints, redo files and parts in a bucket, on workers: exact wherever a worker or the job is killed."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import psycopg
import pytest
from optional_packages import package
from servers import services
from servers.postgres import PostgresServer
from servers.redis import RedisServer
from servers.s3 import KEYS, empty, s3_server
from worker_processes import WorkerProcesses

from dataflare.checkpoint import chunk_cache
from dataflare.checkpoint.chunk_cache import ChunkCache
from dataflare.checkpoint.chunk_content import encoded_chunk
from dataflare.checkpoint.object_store import Bucket
from dataflare.checkpoint.shared_bucket import SharedBucketStore, WorkerBucketStore
from dataflare.checkpoint.shared_places import BucketPlace
from dataflare.checkpoint.shared_store import SharedStore
from dataflare.checkpoint.store import chunk_name
from dataflare.cluster.meeting import answer_mark, leave_mark, take_marks
from dataflare.errors import CheckpointError, ConfigError
from dataflare.jobs import RunOptions, run
from dataflare.jobs.progress import Progress
from dataflare.workflow import load

pytestmark = pytest.mark.rotates(3)

ROWS, USERS = 24_000, 97
URL = "s3://state/checkpoints"
LINEAGE = "0123abcd-0000-4000-8000-000000000000"
FILE = """
name: lake
sources:
  numbers:
    type: generate
    config: {rows: 24000, rate: RATE, seed: 3, columns: {n: {sequence: 0}, user: {int: [1, 97]}, amount: {int: [0, 999]}}}
transformations:
  sums: {type: aggregate, inputs: [numbers], config: {group_by: [user], measures: {rows: "count(*)", total: "sum(amount)"}}}
destinations:
  parts: {type: file, inputs: [numbers], config: {path: "s3://lake/parts/", format: parquet}}
  table: {type: postgres, inputs: [numbers], config: {connection_string: "${DB}", table: numbers}}
  stream: {type: redis, inputs: [numbers], config: {connection: "${REDIS}", stream: "${STREAM}"}}
  totals: {type: file, inputs: [sums], config: {path: sums.csv}}
settings:
  parallelism: 4
  checkpoint: {interval: 200ms, storage: "s3://state/checkpoints"}
  restart: {attempts: 20, delay: 0s}
"""
SLOW, FAST = "4000/s", "1000000/s"
"""Slow enough that a few checkpoints are taken before the end, also on a busy machine."""


class There(NamedTuple):
    """dsn: of PostgreSQL. redis: a client. stream: its name."""

    dsn: str
    redis: Any
    stream: str


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    package("moto.server")
    package("obstore")
    with s3_server() as address:
        yield address


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    yield from services.running("postgres")


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    yield from services.running("redis")


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bucket:
    empty(endpoint, "state", "lake")
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    return Bucket(URL)


@pytest.fixture
def there(
    postgres: PostgresServer,
    redis: RedisServer,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[There]:
    """An empty database, and an empty stream."""
    name = f"lake_{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv("REDIS", redis.url)
    monkeypatch.setenv("STREAM", name)
    with psycopg.connect(postgres.dsn(), autocommit=True) as db:
        db.execute(f"create database {name}")
    monkeypatch.setenv("DB", postgres.dsn(name))
    yield There(postgres.dsn(name), redis.client(), name)
    with psycopg.connect(postgres.dsn(), autocommit=True) as db:
        db.execute(f"drop database {name} with (force)")


def write(folder: Path, rate: str) -> None:
    (folder / "w.yaml").write_text(FILE.replace("RATE", rate))


def is_exact(folder: Path, there: There) -> None:
    """Each row is in each destination once, and was counted once."""
    lake = Bucket("s3://lake")
    names = [name for name in lake.names("parts/") if name.endswith(".parquet")]
    rows = pl.concat([pl.read_parquet(io.BytesIO(lake.get(name) or b"")) for name in names])
    assert sorted(rows["n"]) == list(range(ROWS))
    with psycopg.connect(there.dsn) as db:
        found = db.execute("select count(*), count(distinct n), sum(amount) from numbers")
        assert found.fetchone() == (ROWS, ROWS, rows["amount"].sum())
    entries = [int(fields[b"n"]) for _, fields in there.redis.xrange(there.stream)]
    assert sorted(entries) == list(range(ROWS))
    sums = pl.read_csv(folder / "sums.csv").sort("user")
    expected = rows.group_by("user").agg(rows=pl.len(), total=pl.sum("amount")).sort("user")
    assert sums["rows"].to_list() == expected["rows"].to_list()
    assert sums["total"].to_list() == expected["total"].to_list()
    assert sums.height == USERS


class Dying(WorkerProcesses):
    """The first worker 0 is killed where `point` says."""

    def __init__(self, point: str) -> None:
        super().__init__(2)
        self.point = point

    def environment(self, number: int) -> dict[str, str] | None:
        if number or self.starts > 2:
            return None
        return {**os.environ, "DATAFLARE_CRASH_AT": self.point}


@pytest.mark.parametrize(
    "point",
    [
        "bucket.before_chunk:3",
        "bucket.after_chunk:3",
        "bucket.before_redo:2",
        "bucket.after_redo:2",
        "store.prepare.before_upload:3",
        "store.prepare.after_upload:3",
        "engine.after_prepare:4",
    ],
)
def test_a_worker_that_is_killed_costs_no_row(
    point: str, there: There, bucket: Bucket, tmp_path: Path
) -> None:
    write(tmp_path, SLOW)
    workers = Dying(point)
    try:
        options = RunOptions(home=tmp_path / "home", workers=workers, storage=SharedStore)
        result = run(load(tmp_path / "w.yaml"), options)
    finally:
        workers.close()
    assert result.status == "finished", result.error and (result.error, result.error.notes)
    died = [process for process in workers.left if process.returncode == -signal.SIGKILL]
    assert died, "the worker reached the place"
    assert workers.starts > 2
    is_exact(tmp_path, there)
    assert not [name for name in bucket.names("lake/") if "/.seen-" in name]


@pytest.mark.parametrize(
    ("point", "is_lost"),
    [
        ("bucket.before_manifest:3", False),
        ("bucket.after_manifest:3", False),
        ("bucket.after_manifest:3", True),
        ("engine.after_manifest:3", True),
        ("postgres.commit.after_commit:3", False),
        ("store.commit.between_parts:3", False),
    ],
)
def test_a_job_that_is_killed_goes_on_from_the_bucket(
    point: str, is_lost: bool, there: There, bucket: Bucket, tmp_path: Path
) -> None:
    write(tmp_path, SLOW)
    path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    command = [sys.executable, str(Path(__file__).with_name("job_of_workers.py")), str(tmp_path)]
    killed = subprocess.run(
        command, env={**environ, "CRASH_JOB": point}, capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [name for name in bucket.names("lake/") if "/manifest-" in name] or "before" in point
    write(tmp_path, FAST)
    if is_lost:
        shutil.rmtree(tmp_path / "home")
        command.append("adopt")
    again = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    is_exact(tmp_path, there)


def test_a_worker_that_hangs_and_comes_back_writes_nothing_into_the_next_attempt(
    there: There, tmp_path: Path
) -> None:
    write(tmp_path, "6000/s")
    workers = WorkerProcesses(2)
    stopped: list[int] = []

    def listen(progress: Progress) -> None:
        if progress.checkpoints and not stopped:
            process = workers.processes[1]
            assert process is not None
            stopped.append(process.pid)
            os.kill(process.pid, signal.SIGSTOP)
        elif workers.starts == 3 and len(stopped) == 1:
            stopped.append(0)
            os.kill(stopped[0], signal.SIGCONT)

    try:
        options = RunOptions(
            home=tmp_path / "home", workers=workers, storage=SharedStore, listener=listen
        )
        result = run(load(tmp_path / "w.yaml"), options)
    finally:
        workers.close()
    assert result.status == "finished", result.error
    assert len(stopped) == 2, "it came back while the run went on"
    is_exact(tmp_path, there)


# -- the stores -------------------------------------------------------------------------------------


def stores(
    folder: Path, bucket: Bucket, **more: Any
) -> tuple[SharedBucketStore, WorkerBucketStore]:
    cache = ChunkCache(folder / "cache", LINEAGE, **more)
    return (
        SharedBucketStore(bucket, folder / "job" / "orders", LINEAGE),
        WorkerBucketStore(bucket, folder / "worker" / "orders", LINEAGE, cache),
    )


def test_what_a_worker_wrote_and_read_is_not_fetched_again(bucket: Bucket, tmp_path: Path) -> None:
    rows = pl.DataFrame({"a": [1, 2]})
    _, worker = stores(tmp_path, bucket)
    chunk = worker.write_chunk(chunk_name("sums", 0, 1, 1, 1), rows)
    assert worker.read_chunk(chunk).equals(rows)
    cache = ChunkCache(tmp_path / "other", LINEAGE)
    other = WorkerBucketStore(bucket, tmp_path / "w2" / "orders", LINEAGE, cache)
    for _ in range(2):
        assert other.read_chunk(chunk).equals(rows)
    assert (cache.hits, cache.misses) == (1, 1)
    (path,) = (tmp_path / "other").iterdir()
    path.write_bytes(b"damaged")
    assert other.read_chunk(chunk).equals(rows)
    assert (cache.hits, cache.misses) == (1, 2)


def test_a_damaged_or_missing_chunk_in_the_bucket_is_an_error(
    bucket: Bucket, tmp_path: Path
) -> None:
    _, worker = stores(tmp_path, bucket)
    chunk = worker.write_chunk(chunk_name("sums", 0, 1, 1, 1), pl.DataFrame({"a": [1]}))
    shutil.rmtree(tmp_path / "cache")
    name = f"orders/{LINEAGE[:8]}/chunks/{chunk.name}"
    bucket.put(name, bytes(chunk.num_bytes))
    with pytest.raises(CheckpointError, match="its content is not what was written"):
        worker.read_chunk(chunk)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    bucket.delete([name])
    with pytest.raises(CheckpointError, match="it is missing"):
        worker.read_chunk(chunk)


def test_two_attempts_never_write_one_object(bucket: Bucket, tmp_path: Path) -> None:
    _, worker = stores(tmp_path, bucket)
    name = chunk_name("sums", 0, 1, 1, 1)
    chunk = worker.write_chunk(name, pl.DataFrame({"a": [1]}))
    assert worker.write_chunk(name, pl.DataFrame({"a": [1]})) == chunk, (
        "the same again is not another one"
    )
    with pytest.raises(CheckpointError, match="another run") as told:
        worker.write_chunk(name, pl.DataFrame({"a": [2]}))
    assert told.value.code == "E0705"


def test_the_cache_has_a_size_and_what_was_used_last_stays(tmp_path: Path) -> None:
    contents = [encoded_chunk(f"c{n}.arrow", pl.DataFrame({"a": [n]}), None) for n in range(60)]
    size = contents[0][0].num_bytes
    cache = ChunkCache(tmp_path / "cache", LINEAGE, size * 20)
    for number, (chunk, data) in enumerate(contents):
        cache.put(chunk, data)
        os.utime(cache._path(chunk), (1_000_000_000 + number,) * 2)
        if number == 0:
            os.utime(cache._path(chunk))
        held = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
        assert held <= size * 20, number
    assert cache.get(contents[0][0]) == contents[0][1], "it was used last"
    assert cache.get(contents[1][0]) is None


def test_a_disk_without_room_costs_only_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk, data = encoded_chunk("c.arrow", pl.DataFrame({"a": [1]}), None)

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(chunk_cache.files, "open_private", full)
    cache = ChunkCache(tmp_path / "cache", LINEAGE)
    cache.put(chunk, data)
    assert cache.get(chunk) is None


def test_a_bucket_that_a_worker_does_not_see_is_refused(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = BucketPlace(URL, "orders")
    mark = leave_mark(place, "run/1/x")
    answer_mark(place, mark, "run/1/x", 0, "w0")
    take_marks(place, mark, {0: "w0"})
    assert bucket.names("orders/") == []
    mark = leave_mark(place, "run/1/x")
    with pytest.raises(ConfigError, match="'w1' does not see what its job wrote into s3://lake"):
        answer_mark(BucketPlace("s3://lake", "orders"), mark, "run/1/x", 1, "w1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="cannot read checkpoints") as told:
        answer_mark(place, mark, "run/1/x", 1, "w1")
    assert told.value.code == "E0434"
    assert "AWS_ENDPOINT_URL" in str(told.value.help)


def test_what_a_committer_left_for_writers_goes_to_workers(bucket: Bucket, tmp_path: Path) -> None:
    job, worker = stores(tmp_path, bucket)
    (job.redo_folder("out") / "mirror.json").write_bytes(b"{}")
    (job.redo_folder("out") / "1-1-0.arrow").write_bytes(b"rows")
    worker.take_over(job.handed_over())
    assert [path.name for path in worker.redo_folder("out").iterdir()] == ["mirror.json"]
