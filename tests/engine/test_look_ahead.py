"""New fields are searched in the chunks that follow, as long as there are some soon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import polars as pl
import pytest

from dataflare.engine import new_fields
from dataflare.model.new_fields import typed_fields
from dataflare.model.progress import Position
from dataflare.sdk.source import Chunk


def test_a_source_that_gives_nothing_more_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(new_fields, "LOOK_AHEAD_S", 0.05)
    first = typed_fields({"a": "string"}, [0], str)
    second = typed_fields({"b": "string"}, [0], str)

    async def following() -> AsyncIterator[Chunk]:
        yield Chunk(lambda: pl.LazyFrame(), Position({}), 0, 1)
        await asyncio.Event().wait()

    async def search(chunk: Chunk) -> new_fields.NewFields:
        return second

    async def look() -> list[new_fields.NewFields]:
        return await new_fields.look_ahead(first, [], following(), search)

    assert asyncio.run(look()) == [first, second]
