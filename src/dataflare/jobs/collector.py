"""A destination that stores the first rows in memory and then stops the run. For `preview` and tests."""

from __future__ import annotations

import asyncio

import polars as pl
from pydantic import BaseModel

from dataflare.model.batch import SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext, DestinationContext
from dataflare.sdk.destination import (
    Committable,
    Delivery,
    DestinationCapabilities,
    DestinationConnector,
    Writer,
    WriteStats,
)


class CollectorDestination(DestinationConnector):
    type = "preview"
    Config = BaseModel

    def __init__(self, rows: int, stop: asyncio.Event, name: str) -> None:
        super().__init__(None, ConnectorContext(name))
        self.rows, self.stop = rows, stop
        self.frames: list[pl.DataFrame] = []

    def capabilities(self) -> DestinationCapabilities:
        return DestinationCapabilities(Delivery.FLEETING, "nothing is kept", changelog=True)

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        return _Collector(self)

    def frame(self, schema: Schema) -> pl.DataFrame:
        """The collected rows."""
        if not self.frames:
            return pl.DataFrame(schema=schema.to_polars())
        return pl.concat(self.frames).head(self.rows)


class _Collector(Writer):
    takes_at_once = True

    def __init__(self, destination: CollectorDestination) -> None:
        self.destination = destination

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        destination = self.destination
        stored_rows = sum(frame.height for frame in destination.frames)
        if stored_rows < destination.rows:
            destination.frames.append(batch.frame)
        if destination.rows and stored_rows + batch.num_rows >= destination.rows:
            destination.stop.set()
        return WriteStats(batch.num_rows, batch.num_bytes)
