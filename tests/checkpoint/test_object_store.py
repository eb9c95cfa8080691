"""Checkpoints in a bucket: a server that speaks S3, started by the tests, and homes that are lost."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from checkpoint_samples import LINEAGE, manifest
from msgspec.structs import replace
from optional_packages import package

from dataflare import RunOptions, RunResult, load, run
from dataflare.checkpoint.object_store import Bucket, ObjectStore
from dataflare.checkpoint.store import chunk_name
from dataflare.errors import CheckpointError, SystemError_

pytestmark = pytest.mark.rotates(3)

package("obstore")
server = package("moto.server")

URL = "s3://state/checkpoints"
ROWS = 600
WORKFLOW = f"""\
name: orders
settings: {{parallelism: 2, checkpoint: {{interval: 20ms, storage: "{URL}"}}, batch: {{initial: 20, min: 20, max: 50}}}}
sources:
  clock: {{type: generate, config: {{rows: {ROWS}, rate: RATE, columns: {{n: {{sequence: 0}}, key: {{int: [1, 9]}}}}}}}}
transformations:
  totals: {{type: aggregate, inputs: [clock], config: {{group_by: [key], measures: {{rows: "count(*)", total: "sum(n)"}}}}}}
destinations:
  raw: {{type: sqlite, inputs: [clock], config: {{path: out.db, table: raw}}}}
  sums: {{type: sqlite, inputs: [totals], config: {{path: out.db, table: sums}}}}
"""
SLOW, FAST = "200/s", "100000/s"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    moto = server.ThreadedMotoServer(port=0)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    moto.stop()


@pytest.fixture(autouse=True)
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket."""
    reset = urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset).close()
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/state", method="PUT")).close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tester")
    return Bucket(URL)


def store_at(folder: Path, bucket: Bucket) -> ObjectStore:
    return ObjectStore(bucket, folder / "orders", LINEAGE)


def write(folder: Path, rate: str) -> None:
    (folder / "w.yaml").write_text(WORKFLOW.replace("RATE", rate))


def go(folder: Path, home: str, **options: object) -> RunResult:
    return run(load(folder / "w.yaml"), RunOptions(home=folder / home, **options))  # type: ignore[arg-type]


def is_right(folder: Path) -> None:
    """Each row is there once, and was counted once."""
    with sqlite3.connect(folder / "out.db") as db:
        (raw,) = db.execute("select count(*), count(distinct n), sum(n) from raw")
        (sums,) = db.execute("select sum(rows), sum(total) from sums")
    assert raw == (ROWS, ROWS, sum(range(ROWS)))
    assert sums == (ROWS, sum(range(ROWS)))


def test_another_machine_finds_what_was_published(bucket: Bucket, tmp_path: Path) -> None:
    store = store_at(tmp_path / "one", bucket)
    rows = pl.DataFrame({"a": [1, 2]})
    chunk = store.write_chunk("c.arrow", rows)
    (store.redo_folder("out") / "2-0.arrow").write_bytes(b"redo")
    published = manifest(2, [chunk], redo={"out": "2-0.arrow"})
    store.publish(published)
    other = store_at(tmp_path / "two", bucket)
    (fact,) = other.list_manifests()
    assert fact.usable
    assert fact.manifest == published
    assert other.read_chunk(chunk).equals(rows)
    assert (other.redo_folder("out") / "2-0.arrow").read_bytes() == b"redo"


def test_of_two_runs_that_publish_one_epoch_one_ends(bucket: Bucket, tmp_path: Path) -> None:
    one, two = (store_at(tmp_path / name, bucket) for name in ("one", "two"))
    one.publish(replace(manifest(1), attempt=2, run_id="A"))
    one.publish(replace(manifest(1), attempt=2, run_id="A"))  # the same again is nothing new
    for attempt in (1, 2):
        with pytest.raises(CheckpointError, match="by run A") as caught:
            two.publish(replace(manifest(1), attempt=attempt, run_id="B"))
        assert caught.value.code == "E0705"
    taken_over = replace(manifest(1), attempt=3, run_id="B")
    two.publish(taken_over)
    with pytest.raises(CheckpointError, match="by run B"):
        one.publish(replace(manifest(1), attempt=2, run_id="A", created_at="later"))
    assert store_at(tmp_path / "three", bucket).list_manifests()[0].manifest == taken_over


def test_what_is_collected_here_goes_there_too(bucket: Bucket, tmp_path: Path) -> None:
    store = store_at(tmp_path / "one", bucket)
    for epoch in range(1, 6):
        chunk = store.write_chunk(f"c{epoch}.arrow", pl.DataFrame({"a": [epoch]}))
        store.publish(manifest(epoch, [chunk]))
        store.collect(retain=2)
    names = {name.rpartition("/")[2] for name in bucket.names("orders/")}
    assert names == {"manifest-0000000004.json", "manifest-0000000005.json", "c4.arrow", "c5.arrow"}
    store.rewind(4)
    other = store_at(tmp_path / "two", bucket)
    assert [fact.epoch for fact in other.list_manifests()] == [4]
    store.clear()
    assert bucket.names("orders/") == []


def test_chunks_of_a_table_with_a_blank_in_its_name(bucket: Bucket, tmp_path: Path) -> None:
    rows = pl.DataFrame({"n": [1]})
    store = store_at(tmp_path / "one", bucket)
    for epoch in (1, 2):
        name = chunk_name("shop.Order Lines--changes", 0, 1, epoch, 0)
        store.publish(manifest(epoch, [store.write_chunk(name, rows)]))
    store.collect(retain=1)
    other = store_at(tmp_path / "two", bucket)
    [fact] = other.list_manifests(thorough=True)
    assert fact.usable
    assert fact.manifest is not None
    [chunk] = fact.manifest.chunks.values()
    assert other.read_chunk(chunk).equals(rows)
    assert [each for each in bucket.names("") if "chunks" in each] == [
        f"orders/{LINEAGE[:8]}/chunks/shop.Order%20Lines--changes-0-a1-0000000002-0.arrow"
    ]


def test_state_that_was_not_fetched_is_not_deleted(bucket: Bucket, tmp_path: Path) -> None:
    store = store_at(tmp_path / "one", bucket)
    chunks = [store.write_chunk(f"c{n}.arrow", pl.DataFrame({"a": [n]})) for n in range(3)]
    for epoch, chunk in enumerate(chunks, 1):
        store.publish(manifest(epoch, [chunk]))
    other = store_at(tmp_path / "two", bucket)
    other.list_manifests()
    other.collect(retain=2)
    third = store_at(tmp_path / "three", bucket)
    facts = third.list_manifests(thorough=True)
    assert [(fact.epoch, fact.usable) for fact in facts] == [(3, True), (2, True)]


def test_a_lost_home_is_taken_over_with_the_state_of_operators(tmp_path: Path) -> None:
    write(tmp_path, SLOW)
    assert go(tmp_path, "one", for_s=0.5).status == "stopped"
    shutil.rmtree(tmp_path / "one")
    write(tmp_path, FAST)
    with pytest.raises(CheckpointError, match="is gone"):
        go(tmp_path, "two")
    shutil.rmtree(tmp_path / "two")
    result = go(tmp_path, "two", adopt=True)
    assert result.error is None
    assert result.resumed_from is not None
    is_right(tmp_path)


@pytest.mark.parametrize("point", ["bucket.before_manifest:2", "bucket.after_manifest:2", "engine.after_manifest:2"])  # fmt: skip
@pytest.mark.parametrize("is_lost", [False, True], ids=["here", "lost"])
def test_a_run_that_is_killed_goes_on_with_each_row_once(
    point: str, is_lost: bool, tmp_path: Path
) -> None:
    write(tmp_path, SLOW)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    environ |= {"DATAFLARE_CRASH_AT": point, "DATAFLARE_HOME": str(tmp_path / "one")}
    command = [sys.executable, "-m", "dataflare", "run", "w.yaml", "-q"]
    killed = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    write(tmp_path, FAST)
    if is_lost:
        shutil.rmtree(tmp_path / "one")
    result = go(tmp_path, "one", adopt=is_lost)
    assert result.error is None
    is_right(tmp_path)


def test_a_bucket_that_cannot_be_reached_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(SystemError_) as caught:
        Bucket("s3://no-such-bucket/x").names("a")
    assert caught.value.code == "E0607"
    assert "tester" not in str(caught.value)
