"""Many tables of one log: whatever is written while they are read and followed, wherever the reader ends, and whichever
table comes later, each change comes once, and every cut is between transactions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from random_writers import Writers

from dataflare.model.batch import KIND_COLUMN
from dataflare.model.progress import Position, Split
from dataflare.sdk.source import EndOfSplit, SourceBatch

INSERT, BEFORE, AFTER, DELETE, TRUNCATE = range(5)
PAIR = "one", "two"
"""Tables of one row each. Each transaction that writes one of them writes the same number into the other."""


class Mirror:
    """What the changes make of an empty table. whole: they have the rows as they were before. key: how many columns it
    has, which are the first ones."""

    def __init__(self, *, whole: bool, key: int = 2) -> None:
        self.rows: dict[Any, tuple[Any, ...]] = {}
        self._whole, self._key = whole, key

    def apply(self, frame: pl.DataFrame) -> None:
        kinds = frame[KIND_COLUMN].to_list()
        for kind, row in zip(kinds, frame.drop(KIND_COLUMN).rows(), strict=True):
            key = row[: self._key]
            if kind == TRUNCATE:
                self.rows.clear()
                continue
            if kind == INSERT or (kind == AFTER and self._whole):
                assert key not in self.rows, f"{row} came twice"
                self.rows[key] = row
                continue
            assert key in self.rows, f"{row} is not there"
            if kind == AFTER:
                self.rows[key] = row
            else:
                assert not self._whole or self.rows[key] == row
                del self.rows[key]

    def copy(self) -> Mirror:
        made = Mirror(whole=self._whole, key=self._key)
        made.rows = dict(self.rows)
        return made


class Mirrors:
    """One for each stream. whole: as in Mirror."""

    def __init__(self, *, whole: bool) -> None:
        self.of: dict[str, Mirror] = {}
        self._whole = whole

    def apply(self, batch: SourceBatch) -> None:
        assert not batch.bad
        assert batch.stream is not None
        mirror = self.of.setdefault(
            batch.stream, Mirror(whole=self._whole, key=1 if batch.stream in PAIR else 2)
        )
        mirror.apply(batch.frame)

    def copy(self) -> Mirrors:
        copied = Mirrors(whole=self._whole)
        copied.of = {name: mirror.copy() for name, mirror in self.of.items()}
        return copied

    def check_pair(self) -> None:
        numbers = {tuple(self.of[name].rows.values()) for name in PAIR}
        assert len(numbers) == 1, "a transaction was cut"


class Log(ABC):
    """A database whose tables are followed. whole: whether the log has rows as they were. writers: of the tables."""

    whole: bool
    writers: Writers

    @abstractmethod
    def create(self, table: str, columns: str) -> None: ...

    @abstractmethod
    def client(self) -> Any:
        """A connection in a transaction."""

    @abstractmethod
    def rows(self, sql: str) -> Sequence[tuple[Any, ...]]: ...

    @abstractmethod
    def source(self, **config: Any) -> Any:
        """Of all tables."""

    @abstractmethod
    def is_settled(self, table: Mapping[str, Any]) -> bool:
        """Whether a table was read to its end. table: as it is in a position."""

    def alter(self, rng: random.Random, attempt: int) -> None:
        """Something else that happens between two attempts."""


async def opened(made: Any, split: Split, position: Position | None) -> Any:
    streams = await made.streams()
    made.streams_known = made.streams_read = frozenset(each.name for each in streams)
    return await made.open(split, position)


COLUMNS = "id int, part varchar(5), name varchar(20), body text, primary key (id, part)"


async def follow(log: Log, rng: random.Random) -> None:
    async with contextlib.AsyncExitStack() as stack:
        # A transaction that stays open would hold its tables.
        stack.callback(log.writers.close)
        pair = log.client()
        stack.callback(pair.close)
        await _follow(log, pair, rng, stack)


async def _follow(
    log: Log, pair: Any, rng: random.Random, stack: contextlib.AsyncExitStack
) -> None:
    writers, number = log.writers, 0
    for name in ("t", "u"):
        log.create(name, COLUMNS)
        writers.tables.append(name)
    for name in PAIR:
        log.create(name, "id int primary key, number int")
        with pair.cursor() as cursor:
            cursor.execute(f"insert into {name} values (1, 0)")
    pair.commit()

    def write(*, may_stay_open: bool) -> None:
        nonlocal number
        for _ in range(rng.randint(0, 6)):
            writers.step(may_stay_open=may_stay_open)
        number += 1
        with pair.cursor() as cursor:
            for name in rng.sample(PAIR, 2):
                cursor.execute(f"update {name} set number = {number}")
        pair.commit()

    for _ in range(20):
        write(may_stay_open=False)
    mirrors, position, split = Mirrors(whole=log.whole), None, None
    mirrors_then = mirrors.copy()
    for attempt in range(rng.randint(3, 6)):
        # Nothing may be open while a table is taken in: the first read waits for that.
        writers.end()
        if attempt in (1, 3):
            log.create(f"added_{attempt}", COLUMNS)
            writers.tables.append(f"added_{attempt}")
        log.alter(rng, attempt)
        made = log.source()
        if split is None:
            await made.streams()
            made.streams_known = made.streams_read = frozenset(("t", "u", *PAIR))
            [split] = await made.splits()
        reader = await opened(made, split, position)
        stack.push_async_callback(reader.aclose)
        reading: asyncio.Task[Any] | None = None
        has_read = False
        for _ in range(rng.randint(1, 25)):
            write(may_stay_open=has_read)
            if reading is None:
                reading = asyncio.create_task(reader.read_batch(rng.choice([1, 3, 10, 100])))
            await asyncio.wait([reading], timeout=0.05 if has_read else 20)
            if not reading.done():
                continue
            batch, reading, has_read = reading.result(), None, True
            mirrors.apply(batch)
            if batch.may_cut:
                position = Position(json.loads(json.dumps(reader.position().to_json())))
                mirrors_then = mirrors.copy()
                if all(map(log.is_settled, position.value["tables"].values())):
                    mirrors.check_pair()
                if rng.random() < 0.3 and hasattr(made, "committed"):
                    await made.committed({"changes": position})
        # It ends here, and goes on at its last checkpoint.
        if reading is not None:
            reading.cancel()
        await reader.aclose()
        mirrors = mirrors_then.copy()
    writers.end()
    made = log.source(cdc={"stop": "latest"})
    streams = await made.streams()
    made.streams_known = made.streams_read = frozenset(each.name for each in streams)
    [last] = await made.splits(None if position is None else position.value)
    reader = await made.open(last, None)
    try:
        while True:
            mirrors.apply(await reader.read_batch(rng.choice([2, 50, 1_000])))
    except EndOfSplit:
        await reader.aclose()
    for name in (*writers.tables, *PAIR):
        there = log.rows(f"select * from {name}")
        mirror = mirrors.of.get(name)
        assert sorted(mirror.rows.values() if mirror else []) == sorted(there), name
