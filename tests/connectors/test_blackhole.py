"""Nothing comes out of a black hole, but it counts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from dataflare.connectors.blackhole import BlackholeDestination
from dataflare.model.batch import SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext, DestinationContext
from dataflare.sdk.destination import Delivery

CONTEXT = DestinationContext("out", "0f8fad5b", 1, Schema.of({"id": "int64"}), Path())


def test_rows_are_counted_and_nothing_is_to_be_committed():
    async def scenario() -> None:
        made = BlackholeDestination(BlackholeDestination.Config(), ConnectorContext("out"))
        writer = await made.open(CONTEXT, None)
        stats = await writer.write_batch(SharedDataBatch(pl.DataFrame({"id": [1, 2, 3]})))
        assert (stats.rows, stats.num_bytes) == (3, 24)
        assert await writer.prepare(1, final=True) is None
        assert await (await made.committer(CONTEXT)).marker() is None

    asyncio.run(scenario())


def test_it_promises_nothing_and_takes_everything():
    made = BlackholeDestination(BlackholeDestination.Config(), ConnectorContext("out"))
    capabilities = made.capabilities()
    assert capabilities.delivery is Delivery.FLEETING
    assert capabilities.parallel
    assert capabilities.changelog
    with pytest.raises(ValidationError):
        BlackholeDestination.Config.model_validate({"path": "x"})
