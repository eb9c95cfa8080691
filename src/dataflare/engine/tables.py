"""Read a lookup's table whole, and index it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import polars as pl

from dataflare.engine.metrics import JobMetrics
from dataflare.engine.pool import WorkerPool
from dataflare.engine.segments import broken_data
from dataflare.errors import DataError
from dataflare.operators.lookup import Lookup
from dataflare.resilience.retry import Retries
from dataflare.sdk.source import Chunk, ChunkReader, EndOfSplit, SourceConnector, SupportsProjection
from dataflare.state.index import KeyIndex


async def load_tables(
    lookups: Sequence[Lookup], pool: WorkerPool, metrics: JobMetrics, retries: Retries
) -> dict[str, tuple[pl.DataFrame, KeyIndex]]:
    """The table of each lookup step that is read whole, with an index by its key."""
    tables = {}
    for lookup in lookups:
        if lookup.asked:
            continue
        connector = lookup.table.source
        assert isinstance(connector, SourceConnector)
        if isinstance(connector, SupportsProjection):
            connector = connector.with_columns(lookup.table_columns)
        frame = await retries.of(lookup.table.name).call(
            partial(read_whole, connector, lookup.table.name, pool)
        )
        frame = frame.select(lookup.table_columns)
        if lookup.table.name != lookup.step:
            metrics.step(lookup.table.name).add_out(frame.height, int(frame.estimated_size()))
        index = await pool.submit(KeyIndex, frame, lookup.remote_keys)
        tables[lookup.step] = (frame, index)
    return tables


async def read_whole(connector: SourceConnector, name: str, pool: WorkerPool) -> pl.DataFrame:
    """All rows of a bounded source, in memory."""
    frames: list[pl.DataFrame] = []
    for split in await connector.splits():
        reader = await connector.open(split, None)
        try:
            while True:
                if isinstance(reader, ChunkReader):
                    frames.append(await pool.submit(_collected, await reader.read_chunk(), name))
                else:
                    frames.append((await reader.read_batch(100_000)).frame)
        except EndOfSplit:
            continue
        finally:
            await reader.aclose()
    await connector.aclose()
    if not frames:
        return pl.DataFrame(schema=(await connector.schema()).to_polars())
    return pl.concat(frames, rechunk=True)


def _collected(chunk: Chunk, name: str) -> pl.DataFrame:
    try:
        return chunk.scan().collect(engine="in-memory")
    except pl.exceptions.PolarsError as error:
        if chunk.salvage is None:
            raise broken_data(error, name) from error
        bad = chunk.salvage().bad
        if not bad:
            raise broken_data(error, name) from error
        raise DataError(
            f"source '{name}': {bad[0].place}: {bad[0].message}",
            code=bad[0].code,
            step=name,
            help="mend the data, or set error_handling: {on_error: skip} for the source",
        ) from error
