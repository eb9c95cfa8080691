"""Read a lookup's table whole, and index it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import polars as pl
from msgspec import Struct

from dataflare.engine.discovery import every_split
from dataflare.engine.metrics import JobMetrics
from dataflare.engine.pool import ThreadPool
from dataflare.engine.row_errors import RowErrors
from dataflare.engine.segments import Outcome, broken_data
from dataflare.errors import DataError
from dataflare.model.batch import SharedDataBatch
from dataflare.operators.lookup import Lookup
from dataflare.resilience.retry import Retries
from dataflare.sdk.source import (
    BadRow,
    Chunk,
    ChunkReader,
    EndOfSplit,
    SourceBatch,
    SourceConnector,
    SupportsProjection,
)
from dataflare.state.index import KeyIndex


async def load_tables(
    lookups: Sequence[Lookup],
    pool: ThreadPool,
    metrics: JobMetrics,
    retries: Retries,
    errors: RowErrors,
) -> dict[str, tuple[pl.DataFrame, KeyIndex]]:
    """The table of each lookup step that is read whole, with an index by its key. Rows that cannot be
    read follow the `on_error` of their source, or of the step."""
    tables = {}
    for lookup in lookups:
        if lookup.asked:
            continue
        connector = lookup.table.source
        assert isinstance(connector, SourceConnector)
        if isinstance(connector, SupportsProjection):
            connector = connector.with_columns(lookup.table_columns)
        name = lookup.table.name
        frame, bad = await retries.of(name).call(partial(_read, connector, pool, name, errors))
        bad.apply(metrics)
        frame = frame.select(lookup.table_columns)
        if lookup.table.name != lookup.step:
            metrics.step(lookup.table.name).add_out(frame.height, int(frame.estimated_size()))
        index = await pool.submit(KeyIndex, frame, lookup.remote_keys)
        tables[lookup.step] = (frame, index)
    return tables


async def _read(
    connector: SourceConnector, pool: ThreadPool, name: str, errors: RowErrors
) -> tuple[pl.DataFrame, Outcome]:
    """The rows of a table, and what becomes of those that cannot be read."""
    outcome = Outcome()
    table = _Table(name, errors, outcome)
    return await read_whole(connector, pool, table), outcome


async def read_whole(connector: SourceConnector, pool: ThreadPool, table: _Table) -> pl.DataFrame:
    """All rows of a bounded source, in memory."""
    frames: list[pl.DataFrame] = []
    async for split in every_split(connector):
        reader = await connector.open(split, None)
        try:
            while True:
                if isinstance(reader, ChunkReader):
                    frames.append(await pool.submit(table.chunk, await reader.read_chunk()))
                else:
                    frames.append(table.batch(await reader.read_batch(100_000)))
        except EndOfSplit:
            continue
        finally:
            await reader.aclose()
    await connector.aclose()
    if not frames:
        return pl.DataFrame(schema=(await connector.schema()).to_polars())
    return pl.concat(frames, rechunk=True)


class _Table(Struct, frozen=True):
    """The rows of a table; what becomes of bad ones is noted in `outcome`."""

    name: str
    errors: RowErrors
    outcome: Outcome

    def batch(self, batch: SharedDataBatch) -> pl.DataFrame:
        if isinstance(batch, SourceBatch):
            self._leave_out(batch.bad)
        return batch.frame

    def chunk(self, chunk: Chunk) -> pl.DataFrame:
        try:
            rows: pl.DataFrame = chunk.scan().collect(engine="in-memory")
        except pl.exceptions.PolarsError as error:
            saved = chunk.salvage() if chunk.salvage is not None else None
            if saved is None or not saved.bad:
                raise broken_data(error, self.name) from error
            self._leave_out(saved.bad)
            return saved.good
        self._leave_out(chunk.bad)
        return rows

    def _leave_out(self, bad: Sequence[BadRow]) -> None:
        if bad and self.errors.policy(self.name) == "dead_letter":
            raise DataError(
                f"step '{self.name}': {bad[0].place}: {bad[0].message}",
                code=bad[0].code,
                step=self.name,
                notes=[
                    "a table that is looked up is read again at each start, so its rows cannot be letters"
                ],
                help="fix the data, or set error_handling: {on_error: skip} there",
            )
        self.errors.unread(self.name, bad, self.outcome)
