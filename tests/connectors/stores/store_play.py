"""A run into a store that dies between two steps of its commits, and goes on."""

from __future__ import annotations

import asyncio
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import obstore
import polars as pl
from file_kit import destination, read
from msgspec.structs import replace

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
KINDS = ("append", "overwrite", "single")


def configs(scheme: str) -> dict[str, dict[str, Any]]:
    """By kind, a destination in the bucket `lake`."""
    return configs_at(f"{scheme}://lake/out/")


def configs_at(out: str) -> dict[str, dict[str, Any]]:
    """By kind, a destination in a folder."""
    return {
        "append": {"path": out, "rows_per_part": 150},
        "overwrite": {"path": out, "rows_per_part": 150, "mode": "overwrite"},
        "single": {"path": f"{out}one.parquet", "row_group_rows": 100},
    }


class Died(BaseException):
    """The process is dead."""


@dataclass
class Play:
    """A run with three epochs, of which attempts may die. Manifests are what a dead attempt leaves behind."""

    config: dict[str, Any]
    base: Path
    points: tuple[str, ...] = ("s3.", "store.")
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
            if name.startswith(self.points):
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


def rows_at(config: dict[str, Any], base: Path) -> pl.DataFrame:
    there = {name: config[name] for name in ("path", "storage") if name in config}
    return read(there, base).frame.sort("id")


def put_old(s3, kind: str) -> None:
    buffer = io.BytesIO()
    OLD.write_parquet(buffer)
    name = "out/one.parquet" if kind == "single" else "out/old.parquet"
    obstore.put(s3, name, buffer.getvalue())


def expected(kind: str) -> pl.DataFrame:
    return pl.concat([OLD, ROWS]) if kind == "append" else ROWS


def die_at_each_step(
    store: Any,
    config: dict[str, Any],
    kind: str,
    folder: Path,
    *,
    every: bool = False,
    points: tuple[str, ...] = ("s3.", "store."),
) -> None:
    """Also a second time, at the same place of the next attempt. every: each time that a place is reached, not only
    the first and the last. points: what the names of places begin with. store: a client of obstore for the bucket."""
    put_old(store, kind)
    whole = Play(config, folder / "whole", points)
    whole.base.mkdir()
    assert whole.go()
    check_whole(store, config, kind, folder)
    names = whole.reached
    ends = {names.index(name) for name in names} | {
        len(names) - 1 - names[::-1].index(name) for name in names
    }
    assert len(set(names)) >= (5 if "store." in points else 3)
    for place in range(len(names)) if every else sorted(ends):
        for key in keys(store):
            obstore.delete(store, key)
        put_old(store, kind)
        base = folder / str(place)
        base.mkdir()
        play = Play(config, base, points)
        assert not play.go(dies_at=place)
        seen = rows_at(config, base)
        done = EPOCHS[: play.epoch]
        if kind == "append":
            committed = {-1, *(n for part in done for n in part["id"])}
            assert set(seen["id"]) <= committed
            assert seen["id"].n_unique() == seen.height
        else:
            assert play.epoch == len(EPOCHS) or seen.equals(OLD), (
                place,
                names[place],
                play.epoch,
                seen,
                keys(store),
            )
        play.go(dies_at=place)
        play.go()
        assert play.epoch == len(EPOCHS)
        check_whole(store, config, kind, base)


def check_whole(store: Any, config: dict[str, Any], kind: str, base: Path) -> None:
    """Each row is there once, and nothing that was staged."""
    assert rows_at(config, base).equals(expected(kind)), (rows_at(config, base), base, keys(store))
    # S3Proxy takes a part that arrives after its upload was discarded (here another thread of the "dead" process sends it), which
    # S3 refuses, and shows it as an object. An upload that was not discarded has an object `-stub` there.
    late_part = re.compile(r"\.mpus-[0-9a-f-]{36}-.*-\d+")
    hidden = [key for key in keys(store) if "/." in f"/{key}" and not late_part.fullmatch(key)]
    marker = re.compile(r"(.*/)?\.out\.dataflare-[0-9a-f]{8}\.json(\.\d+(/data)?|\.first/made)?")
    assert all(marker.fullmatch(key) for key in hidden), hidden
    markers = [key for key in hidden if not key.endswith(".first/made")]
    assert len(markers) == (kind != "single"), hidden
