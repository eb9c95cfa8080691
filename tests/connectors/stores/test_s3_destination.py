"""Rows are in S3 once, wherever the process dies, and nothing that was half written stays behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from xml.etree import ElementTree

import pytest
from file_kit import destination, read
from msgspec.structs import replace
from store_play import KINDS, ROWS, Play, configs, die_at_each_step, keys

from dataflare import RunOptions, RunResult, load, run
from dataflare.errors import CheckpointError, ConfigError, RunError, SystemError_
from dataflare.model.batch import SharedDataBatch
from dataflare.sdk.destination import Epoch

pytestmark = pytest.mark.rotates(2)


def uploads(endpoint: str) -> list[str]:
    """Unfinished multipart uploads."""
    with urlopen(f"{endpoint}/lake?uploads") as answer:
        tree = ElementTree.fromstring(answer.read())
    return [each.text or "" for each in tree.iter() if each.tag.endswith("Key")]


@pytest.mark.rotates(2)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_a_run_dies_between_two_steps_and_goes_on(s3, endpoint, tmp_path, kind, every):
    die_at_each_step(s3, configs("s3")[kind], kind, tmp_path, every=every)
    assert uploads(endpoint) == []


def test_an_older_attempt_publishes_nothing_any_more(s3, endpoint, tmp_path):
    """It wakes up after a newer one has begun, with its rows uploaded."""

    async def work() -> None:
        play = Play(configs("s3")["append"], tmp_path)
        committer, writer = await play.begin()
        await writer.write_batch(SharedDataBatch(ROWS[:300]))
        made = await writer.prepare(1, final=False)
        newer, _ = await play.begin()
        with pytest.raises(RunError) as caught:
            await committer.commit(Epoch(1, "{}"), [made])
        assert caught.value.code == "E0804"
        assert uploads(endpoint) == []
        # S3 answers NoSuchUpload (E0704), and moto fails where the object does not exist either.
        with pytest.raises((CheckpointError, SystemError_)):
            await newer.commit(Epoch(1, "{}"), [made])

    asyncio.run(work())
    assert [key for key in keys(s3) if key.endswith(".parquet")] == []


def test_of_two_copies_of_a_state_folder_one_goes_on(s3, tmp_path):
    async def work() -> None:
        one, two = Play(configs("s3")["append"], tmp_path), Play(configs("s3")["append"], tmp_path)
        first, _ = await one.begin()
        made = destination(two.config, two.base)
        two.attempts = 1
        other = await made.committer(replace(two.context(), token="aaaa", redo=tmp_path))
        with pytest.raises(RunError, match="another copy of this state folder"):
            await other.recover(0, [])
        await first.commit(Epoch(1, "{}"), [])

    asyncio.run(work())


def test_other_objects_of_the_bucket_are_not_listed(s3, endpoint, tmp_path):
    """Those beside a folder or a file may have names that the library does not take."""
    put(endpoint, "zz//a")
    for path in ("s3://lake/parts/", "s3://lake/whole.csv"):
        workflow = f"""
name: {path[10:15]}
sources: {{rows: {{type: inline, config: {{rows: [{{n: 1}}]}}}}}}
destinations: {{out: {{type: file, inputs: [rows], config: {{path: "{path}", format: csv}}}}}}
"""
        (tmp_path / "w.yaml").write_text(workflow)
        for _ in range(2):
            assert go(tmp_path).error is None


def test_an_object_that_cannot_be_listed_is_named(s3, endpoint, tmp_path):
    put(endpoint, "in/zz//a.csv")
    (tmp_path / "w.yaml").write_text("""
name: odd
sources: {rows: {type: file, config: {path: "s3://lake/in/*.csv"}, schema: {n: int64}}}
destinations: {out: {type: blackhole, inputs: [rows]}}
""")
    with pytest.raises(SystemError_, match=r"s3://lake/in/zz//a\.csv has a name") as caught:
        go(tmp_path)
    assert caught.value.code == "E0607"
    assert "another name" in (caught.value.help or "")


def refused(config: dict[str, Any], base: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        destination(config, base).capabilities()
    return caught.value


def test_what_a_store_cannot_do_is_refused(s3, tmp_path):
    assert (
        "can only be replaced"
        in refused({"path": "s3://lake/a.csv", "mode": "append"}, tmp_path).message
    )
    mirror = {"path": "s3://lake/a.csv", "mode": "mirror", "key": ["id"]}
    assert "can only be replaced" in refused(mirror, tmp_path).message
    assert "'storage' is for URLs" in refused({"path": "a.csv", "storage": {}}, tmp_path).message


def put(endpoint: str, key: str) -> None:
    """An object that no library that cleans names would write."""
    with urlopen(Request(f"{endpoint}/lake/{key}", b"n\n1\n", method="PUT")):
        pass


WORKFLOW = """\
name: copies
version: "1.0"
settings: {checkpoint: {interval: 50ms}, batch: {initial: 50, min: 50, max: 50}}
sources:
  clock: {type: generate, config: {rows: 900, rate: 3000/s, columns: {n: {sequence: 0}, country: {choice: [DE, FR]}}}}
destinations:
  parts: {type: file, inputs: [clock], config: {path: "s3://lake/parts/", partition_by: [country], format: FORMAT}}
  whole: {type: file, inputs: [clock], config: {path: "s3://lake/whole.csv.gz"}}
"""


def go(folder: Path) -> RunResult:
    return run(load(folder / "w.yaml"), RunOptions(home=folder / "home"))


@pytest.mark.parametrize(
    ("place", "format_"),
    [("s3.upload.part:3", "parquet"), ("store.commit.between_parts:2", "ndjson")],
)
def test_a_killed_process_goes_on(s3, endpoint, tmp_path, place, format_):
    (tmp_path / "w.yaml").write_text(WORKFLOW.replace("FORMAT", format_))
    command = [sys.executable, "-m", "dataflare", "run", str(tmp_path / "w.yaml")]
    environment = {
        **os.environ,
        "DATAFLARE_CRASH_AT": place,
        "DATAFLARE_HOME": str(tmp_path / "home"),
    }
    killed = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert "whole.csv.gz" not in keys(s3)
    assert go(tmp_path).error is None
    parts = read("s3://lake/parts/", tmp_path).frame
    assert sorted(parts["n"]) == list(range(900))
    assert set(parts["country"]) == {"DE", "FR"}
    assert read("s3://lake/whole.csv.gz", tmp_path).frame["n"].to_list() == list(range(900))
    assert uploads(endpoint) == []
