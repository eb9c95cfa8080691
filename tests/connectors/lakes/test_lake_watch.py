"""A source with `watch: true` goes on with the rows of each version, also when it is started again."""

from __future__ import annotations

import asyncio

import deltalake
import polars as pl
from lake_kit import Lake

from dataflare.model.progress import Position
from dataflare.testing import source_of

ROWS = pl.DataFrame({"id": range(6), "v": list("abcdef")})


class Watcher:
    """A process that watches. position: where the one before it stopped."""

    def __init__(self, lake: Lake, position: Position | None = None) -> None:
        feed = {"change_feed": True} if lake.kind == "delta" else {}
        config = lake.config(watch=True, watch_interval="10ms", **feed)
        self.source = source_of(lake.kind, config, base=lake.folder)
        self.position = position

    async def rows(self, count: int, add: pl.DataFrame, lake: Lake) -> list[int]:
        """The first rows that it reads; `add` is added when it waits for more than `count - len(add)`."""
        (split,) = await self.source.splits()
        reader = await self.source.open(split, self.position)
        found: list[int] = []
        while len(found) < count - add.height:
            found += await self.batch(reader)
        waits = asyncio.create_task(self.batch(reader))
        done, _ = await asyncio.wait([waits], timeout=0.05)
        assert not done, "there was nothing to read"
        lake.add(add)
        found += await waits
        while len(found) < count:
            found += await self.batch(reader)
        await reader.aclose()
        return found

    async def batch(self, reader: object) -> list[int]:
        read = await reader.read_batch(2)  # type: ignore[attr-defined]
        self.position = reader.position()  # type: ignore[attr-defined]
        ids: list[int] = read.frame["id"].to_list()
        return ids


def begin(lake: Lake) -> None:
    if lake.kind == "iceberg":
        lake.add(ROWS[:3])
        return
    feed = {"delta.enableChangeDataFeed": "true"}
    deltalake.write_deltalake(lake.folder / "lake" / "t", ROWS[:3], configuration=feed)


def test_rows_of_new_versions_are_read_once(lake: Lake):
    begin(lake)
    first = Watcher(lake)
    assert not first.source.capabilities().bounded
    assert sorted(asyncio.run(first.rows(4, ROWS[3:4], lake))) == [0, 1, 2, 3]
    again = Watcher(lake, first.position)
    lake.add(ROWS[4:5])
    assert asyncio.run(again.rows(2, ROWS[5:], lake)) == [4, 5]
