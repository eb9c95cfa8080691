"""A transaction that is larger than memory is read in pieces."""

from __future__ import annotations

import asyncio
import tracemalloc

from cdc_kit import source
from postgres_kit import Database

from dataflare.sdk.source import EndOfSplit

ROWS = 60_000
ROWS_MAX = 2_000
SIZE = 400


def test_memory_does_not_grow_with_a_transaction(logical: Database) -> None:
    """The bytes of messages are Python's, so their peak is known exactly. All of them are 24 MB and more."""
    logical.execute(
        "create table big (id int primary key, note text)",
        "create publication pub for table big",
        "select pg_create_logical_replication_slot('big_slot', 'pgoutput')",
        f"insert into big select n, rpad(n::text, {SIZE}, 'x') from generate_series(1, {ROWS}) n",
    )
    cdc = {"slot": "big_slot", "publication": "pub", "snapshot": "never", "stop": "latest"}
    made = source(logical, table="big", cdc=cdc)

    async def read() -> tuple[int, int, int, list[bool]]:
        await made.schema()
        [split] = await made.splits(None)
        reader = await made.open(split, None)
        rows, total, cuts = 0, 0, []
        tracemalloc.start()
        try:
            while True:
                batch = await reader.read_batch(ROWS_MAX)
                assert batch.num_rows <= ROWS_MAX
                rows += batch.num_rows
                if batch.num_rows:
                    total += int(batch.frame["id"].sum())
                    cuts.append(batch.may_cut)
        except EndOfSplit:
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            await reader.aclose()
            await made.aclose()
        return rows, total, peak, cuts

    rows, total, peak, cuts = asyncio.run(read())

    assert (rows, total) == (ROWS, ROWS * (ROWS + 1) // 2)
    assert len(cuts) >= ROWS // ROWS_MAX
    assert not any(cuts[:-1])
    assert cuts[-1]  # a checkpoint may be cut behind the transaction
    assert peak < ROWS * SIZE / 3
