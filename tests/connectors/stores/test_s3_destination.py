"""Rows are in S3 once, wherever the process dies, and nothing that was half written stays behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from xml.etree import ElementTree

import obstore
import polars as pl
import pytest
from file_kit import destination, read
from msgspec.structs import replace

from dataflare import RunOptions, RunResult, load, run
from dataflare.errors import CheckpointError, ConfigError, RunError, SystemError_
from dataflare.model.batch import SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.crashpoints import observed
from dataflare.sdk.destination import Committable, Committer, Epoch, Writer

ROWS = pl.DataFrame({"id": range(900), "name": [f"n{n}" for n in range(900)]})
SCHEMA = Schema.from_polars(ROWS.schema)
EPOCHS = (ROWS[:300], ROWS[300:600], ROWS[600:])
OLD = pl.DataFrame({"id": [-1], "name": ["old"]})
LINEAGE = "0123abcd-0000-4000-8000-000000000000"
CONFIGS: dict[str, dict[str, Any]] = {
    "append": {"path": "s3://lake/out/", "rows_per_part": 150},
    "overwrite": {"path": "s3://lake/out/", "rows_per_part": 150, "mode": "overwrite"},
    "single": {"path": "s3://lake/out/one.parquet", "row_group_rows": 100},
}


class Died(BaseException):
    """The process is dead."""


@dataclass
class Play:
    """A run with three epochs, of which attempts may die. Manifests are what a dead attempt leaves behind."""

    config: dict[str, Any]
    base: Path
    attempts: int = 0
    epoch: int = 0
    prepared: list[Committable] = field(default_factory=list)
    reached: list[str] = field(default_factory=list)

    def context(self, **more: Any) -> DestinationContext:
        redo = self.base / "redo"
        redo.mkdir(exist_ok=True)
        plain = DestinationContext("out", LINEAGE, self.attempts, SCHEMA, redo)
        return replace(plain, workflow="w", token=f"{self.attempts:04x}", **more)

    async def begin(self) -> tuple[Committer, Writer]:
        self.attempts += 1
        made = destination(self.config, self.base)
        await made.validate(SCHEMA)
        committer = await made.committer(self.context())
        await committer.recover(self.epoch, self.prepared)
        if not self.epoch:
            await committer.begin(0)
        else:
            await self.commit(committer)
        restored = self.prepared[0] if self.prepared else None
        return committer, await made.open(self.context(epoch=self.epoch), restored)

    async def commit(self, committer: Committer) -> None:
        final = self.epoch == len(EPOCHS)
        await committer.commit(
            Epoch(self.epoch, f'{{"epoch": {self.epoch}}}', final), self.prepared
        )

    async def attempt(self) -> dict[str, Any]:
        committer, writer = await self.begin()
        while self.epoch < len(EPOCHS):
            number = self.epoch + 1
            frame = EPOCHS[number - 1]
            for start in range(0, frame.height, 100):
                await writer.write_batch(SharedDataBatch(frame[start : start + 100]))
            made = await writer.prepare(number, final=number == len(EPOCHS))
            assert made is not None
            self.prepared, self.epoch = [Committable.from_json(made.to_json())], number
            await self.commit(committer)
        await writer.aclose()
        return dict(await committer.published())

    def go(self, dies_at: int = -1) -> bool:
        """An attempt; it dies at this crash point, counted from 0. Whether it ended."""
        self.reached = []

        def observe(name: str) -> None:
            if name.startswith(("s3.", "store.")):
                self.reached.append(name)
                if dies_at >= 0 and len(self.reached) > dies_at:
                    raise Died(name)

        with observed(observe):
            try:
                asyncio.run(self.attempt())
            except Died:
                return False
        return True


def keys(s3) -> list[str]:
    return sorted(each["path"] for part in obstore.list(s3) for each in part)


def uploads(endpoint: str) -> list[str]:
    """Unfinished multipart uploads."""
    with urlopen(f"{endpoint}/lake?uploads") as answer:
        tree = ElementTree.fromstring(answer.read())
    return [each.text or "" for each in tree.iter() if each.tag.endswith("Key")]


def rows_at(config: dict[str, Any], base: Path) -> pl.DataFrame:
    return read(config["path"], base).frame.sort("id")


def put_old(s3, kind: str) -> None:
    data = OLD.write_parquet
    import io

    buffer = io.BytesIO()
    data(buffer)
    name = "out/one.parquet" if kind == "single" else "out/old.parquet"
    obstore.put(s3, name, buffer.getvalue())


def expected(kind: str) -> pl.DataFrame:
    return pl.concat([OLD, ROWS]) if kind == "append" else ROWS


def check(s3, endpoint: str, kind: str, base: Path) -> None:
    assert rows_at(CONFIGS[kind], base).equals(expected(kind))
    assert uploads(endpoint) == []
    hidden = [key for key in keys(s3) if "/." in f"/{key}"]
    assert all(
        key.endswith(".json") and "-parts-" not in key and "-base-" not in key for key in hidden
    )
    assert len(hidden) == (kind != "single")


@pytest.mark.parametrize("kind", list(CONFIGS))
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_a_run_dies_between_two_steps_and_goes_on(s3, endpoint, tmp_path, kind, every):
    """Also a second time, at the same place of the next attempt. every: each time that a place is reached, not only
    the first and the last."""
    put_old(s3, kind)
    whole = Play(CONFIGS[kind], tmp_path / "whole")
    whole.base.mkdir()
    assert whole.go()
    check(s3, endpoint, kind, tmp_path)
    names = whole.reached
    ends = {names.index(name) for name in names} | {
        len(names) - 1 - names[::-1].index(name) for name in names
    }
    assert len(set(names)) >= 5
    for place in range(len(names)) if every else sorted(ends):
        obstore.delete(s3, keys(s3))
        put_old(s3, kind)
        base = tmp_path / str(place)
        base.mkdir()
        play = Play(CONFIGS[kind], base)
        assert not play.go(dies_at=place)
        seen = rows_at(CONFIGS[kind], base)
        done = EPOCHS[: play.epoch]
        if kind == "append":
            committed = {-1, *(n for part in done for n in part["id"])}
            assert set(seen["id"]) <= committed
            assert seen["id"].n_unique() == seen.height
        else:
            assert play.epoch == len(EPOCHS) or seen.equals(OLD)
        play.go(dies_at=place)
        play.go()
        assert play.epoch == len(EPOCHS)
        check(s3, endpoint, kind, base)


def test_an_older_attempt_publishes_nothing_any_more(s3, endpoint, tmp_path):
    """It wakes up after a newer one has begun, with its rows uploaded."""

    async def work() -> None:
        play = Play(CONFIGS["append"], tmp_path)
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
        one, two = Play(CONFIGS["append"], tmp_path), Play(CONFIGS["append"], tmp_path)
        first, _ = await one.begin()
        made = destination(two.config, two.base)
        two.attempts = 1
        other = await made.committer(replace(two.context(), token="aaaa", redo=tmp_path))
        with pytest.raises(RunError, match="another copy of this state folder"):
            await other.recover(0, [])
        await first.commit(Epoch(1, "{}"), [])

    asyncio.run(work())


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
