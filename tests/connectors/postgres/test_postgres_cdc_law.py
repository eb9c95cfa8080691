"""Whatever is written while a table is read and followed, and wherever the reader ends and goes on: each row comes
once, and each change finds the row that it changes."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from cdc_kit import source
from cdc_workload import COLUMNS, statements
from pieces_kit import send_in_pieces, streamed
from postgres_kit import Database
from random_writers import Writers
from streams_law import Mirror

from dataflare.errors import Retry, SystemError_
from dataflare.model.progress import Position, Split
from dataflare.sdk import resyncs
from dataflare.sdk.source import EndOfSplit


async def follow(database: Database, rng: random.Random, *, whole: bool) -> None:
    writers = Writers(statements(database.dsn, "truncate t"), rng)
    for _ in range(60):
        writers.step(may_stay_open=False)
    mirror, position, split = (
        Mirror(whole=whole),
        None,
        Split("changes", {"start": {}, "until": None}),
    )
    mirror_then = mirror.copy()
    for _ in range(rng.randint(2, 6)):
        made = source(database, table="t")
        reader = await made.open(split, position)
        reading: asyncio.Task[Any] | None = None
        for _ in range(rng.randint(1, 25)):
            for _ in range(rng.randint(0, 6)):
                writers.step(may_stay_open=position is not None)
            if rng.random() < 0.05:
                resyncs.ask(database.folder / "shop", "in")
            if reading is None:
                reading = asyncio.create_task(reader.read_batch(rng.choice([1, 3, 10, 100])))
            await asyncio.wait([reading], timeout=0.05 if position is not None else 20)
            if not reading.done():
                continue
            done, reading = reading, None
            try:
                batch = done.result()
            except SystemError_ as error:
                # Truncated while it was read: a run goes on in a new snapshot.
                if error.retry is not Retry.LATER:
                    raise
                break
            assert not batch.bad
            mirror.apply(batch.frame)
            if batch.may_cut:
                position, mirror_then = reader.position(), mirror.copy()
                position = Position(json.loads(json.dumps(position.to_json())))
                if rng.random() < 0.3:
                    await made.committed({"changes": position})
        # It ends here, and goes on at its last checkpoint.
        if reading is not None:
            reading.cancel()
        await reader.aclose()
        mirror = mirror_then.copy()
    writers.end()
    writers.close()
    made = source(database, table="t", cdc={"stop": "latest"})
    [last] = await made.splits(None if position is None else position.value)
    reader = await made.open(last, None)
    try:
        while True:
            batch = await reader.read_batch(rng.choice([2, 50, 1_000]))
            mirror.apply(batch.frame)
    except EndOfSplit:
        await reader.aclose()
    assert sorted(mirror.rows.values()) == sorted(database.rows("select * from t"))


@pytest.mark.parametrize("identity", ["full", "key"])
@pytest.mark.parametrize("seed", range(4))
def test_each_change_finds_its_row(logical: Database, seed: int, identity: str) -> None:
    law(logical, seed, identity)


@pytest.mark.parametrize("seed", range(4, 7))
def test_each_change_that_comes_in_pieces_finds_its_row(logical: Database, seed: int) -> None:
    (logical.folder / "shop").mkdir()
    law(logical, seed, "full" if seed % 2 else "key", in_pieces=True)
    assert streamed(logical)[0]


def law(logical: Database, seed: int, identity: str, *, in_pieces: bool = False) -> None:
    logical.execute(f"create table t ({COLUMNS}, primary key (id, part))")
    if identity == "full":
        logical.execute("alter table t replica identity full")
    else:
        # Without whole rows in the log, no value may be left out.
        logical.execute("alter table t alter body set storage main")
    if in_pieces:
        send_in_pieces(logical, by_trigger="t")
    asyncio.run(follow(logical, random.Random(f"{seed} {identity}"), whole=identity == "full"))
