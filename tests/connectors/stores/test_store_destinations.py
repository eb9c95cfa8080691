"""Azure Blob, Google Cloud Storage and S3 of a real server: rows are there once wherever the process dies, nothing that
was staged stays, and checkpoints lie there as they do in S3."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_kit import read
from optional_packages import package
from servers import buckets, services
from store_play import ROWS, Play, configs, die_at_each_step, keys

from dataflare import RunOptions, load, run
from dataflare.checkpoint.object_store import Bucket
from dataflare.errors import CheckpointError, DataFlareError, RunError
from dataflare.model.batch import SharedDataBatch
from dataflare.sdk.destination import Epoch

pytestmark = pytest.mark.rotates(4)

WORKFLOW = """\
name: copies
version: "1.0"
settings: {checkpoint: {interval: 50ms, storage: "SCHEME://lake/state"}, batch: {initial: 50, min: 50, max: 50}}
sources:
  clock: {type: generate, config: {rows: 300, rate: 3000/s, columns: {n: {sequence: 0}, country: {choice: [DE, FR]}}}}
  odd: {type: inline, config: {rows: [{a: "1"}, {a: x}]}}
transformations:
  number:
    type: map
    inputs: [odd]
    config: {derive: {b: "cast(a as int64)"}}
    error_handling:
      on_error: dead_letter
      dead_letter: {type: file, config: {path: "SCHEME://lake/dead/", format: ndjson}}
destinations:
  parts: {type: file, inputs: [clock], config: {path: "SCHEME://lake/parts/", partition_by: [country]}}
  whole: {type: file, inputs: [clock], config: {path: "SCHEME://lake/whole.csv.gz"}}
  numbers: {type: file, inputs: [number], config: {path: "SCHEME://lake/numbers.csv"}}
"""


@pytest.fixture(scope="session", params=["az", "gs", "s3"])
def server(request: pytest.FixtureRequest) -> Iterator[buckets.Buckets]:
    package("obstore")
    yield from services.running({"az": "azure", "gs": "gcs", "s3": "s3proxy"}[request.param])


@pytest.fixture
def lake(server: buckets.Buckets, monkeypatch: pytest.MonkeyPatch) -> buckets.Buckets:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.empty()
    return server


@pytest.mark.parametrize("kind", ["append", "overwrite", "single"])
def test_a_run_dies_between_two_steps_and_goes_on(lake, tmp_path: Path, kind):
    die_at_each_step(lake.store, configs(lake.scheme)[kind], kind, tmp_path)


def test_an_older_attempt_publishes_nothing_any_more(lake, tmp_path):
    async def work() -> None:
        play = Play(configs(lake.scheme)["append"], tmp_path)
        committer, writer = await play.begin()
        await writer.write_batch(SharedDataBatch(ROWS[:300]))
        made = await writer.prepare(1, final=False)
        newer, _ = await play.begin()
        with pytest.raises(RunError) as caught:
            await committer.commit(Epoch(1, "{}"), [made])
        assert caught.value.code == "E0804"
        with pytest.raises((CheckpointError, DataFlareError)):
            await newer.commit(Epoch(1, "{}"), [made])

    asyncio.run(work())
    assert [key for key in keys(lake.store) if key.endswith(".parquet")] == []


def test_a_run_keeps_checkpoints_and_dead_letters_there(lake, tmp_path):
    (tmp_path / "w.yaml").write_text(WORKFLOW.replace("SCHEME", lake.scheme))
    result = run(load(tmp_path / "w.yaml"), RunOptions(home=tmp_path / "home"))
    assert result.error is None
    parts = read(f"{lake.scheme}://lake/parts/", tmp_path).frame
    assert sorted(parts["n"]) == list(range(300))
    whole = read(f"{lake.scheme}://lake/whole.csv.gz", tmp_path).frame
    assert whole["n"].to_list() == list(range(300))
    names = keys(lake.store)
    assert any(name.startswith("state/copies/") and "manifest-" in name for name in names)
    dead = read(f"{lake.scheme}://lake/dead/", tmp_path).frame
    assert dead.height == 1


def test_of_two_that_put_one_object_one_wins(lake):
    bucket = Bucket(f"{lake.scheme}://lake/state")
    assert [bucket.put_new("m.json", data) for data in (b"1", b"2")] == [True, False]
    assert [bucket.replace("m.json", b"1", data) for data in (b"3", b"4")] == [True, False]
    assert bucket.get("m.json") == b"3"
    bucket.put("n.json", b"x")
    bucket.delete(["gone.json", "m.json", "n.json"])
    assert list(bucket.names("")) == []
