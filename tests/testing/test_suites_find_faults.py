"""The suites are not content with everything: each fault here breaks the law that is named."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dataflare.connectors.memory import (
    MemoryDestination,
    MemoryReader,
    MemorySource,
    committed,
    put,
)
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.operators.base import LiveOperator, StatefulOperator
from dataflare.sdk.destination import Committable, Committer
from dataflare.sdk.source import KnownSplits, SupportsDiscovery
from dataflare.state.tables import Tables
from dataflare.testing import (
    ContractBroken,
    check_destination,
    check_processor,
    check_source,
    description,
)


class Forgetful(MemorySource):
    """Its position is one row behind what it has given."""

    async def open(self, split: Any, position: Position | None) -> MemoryReader:
        reader = await super().open(split, position)
        real = reader.position
        reader.position = lambda: Position({"row": max(0, real().value["row"] - 1)})  # type: ignore[method-assign]
        return reader


def test_a_position_that_is_behind_is_found():
    put("faulty", pl.DataFrame({"n": range(10)}))
    with pytest.raises(ContractBroken, match="positions_resume") as caught:
        asyncio.run(
            check_source(
                lambda: description(Forgetful, {"name": "faulty"}), only=["positions_resume"]
            )
        )
    assert caught.value.law == "positions_resume"


class Finding(MemorySource, SupportsDiscovery):
    """Finds its split, and forgets: after the first look it finds nothing."""

    forgets = False
    looks = 0

    async def splits(self, carried: Any = None) -> Sequence[Split]:
        return []

    async def discover(self, known: KnownSplits) -> Sequence[Split] | None:
        self.looks += 1
        return [] if self.forgets and self.looks > 1 else await super().splits()


class FindingOnce(Finding):
    forgets = True


def test_a_source_that_tells_what_it_found_only_once_is_found():
    put("faulty", pl.DataFrame({"n": range(10)}))
    asyncio.run(check_source(lambda: description(Finding, {"name": "faulty"})))
    with pytest.raises(ContractBroken, match="splits_are_found_again"):
        asyncio.run(
            check_source(
                lambda: description(FindingOnce, {"name": "faulty"}),
                only=["splits_are_found_again"],
            )
        )


class Doubling(MemoryDestination):
    """Commits without looking at the marker."""

    async def committer(self, context: Any) -> Any:
        made = await super().committer(context)
        store = made._store

        class Careless(type(made)):  # type: ignore[misc]
            async def commit(self, epoch: Any, committables: Sequence[Committable]) -> None:
                before = len(store.frames)
                await super().commit(epoch, committables)
                if len(store.frames) == before and store.frames:
                    store.frames.append(store.frames[-1])

        made.__class__ = Careless
        assert isinstance(made, Committer)
        return made


def test_a_commit_that_doubles_is_found(tmp_path: Path):
    with pytest.raises(ContractBroken, match="a_commit_twice_is_a_commit"):
        asyncio.run(
            check_destination(
                lambda folder: description(Doubling, {"name": str(folder)}),
                lambda folder: committed(str(folder)),
                tmp_path,
                only=["a_commit_twice_is_a_commit"],
            )
        )


class Count(StatefulOperator):
    """Counts rows, and does not keep the count in a table."""

    step, keys = "count", ()

    def open(self, tables: Tables) -> LiveOperator:
        return LiveCount()


class LiveCount(LiveOperator):
    def __init__(self) -> None:
        self.rows = 0

    def process(self, port: int, frame: pl.DataFrame) -> Iterable[pl.DataFrame]:
        self.rows += frame.height
        return ()

    def end(self, port: int) -> Iterable[pl.DataFrame]:
        return [pl.DataFrame({"rows": [self.rows]})]


def test_state_that_is_not_kept_is_found():
    frame = pl.DataFrame({"n": range(40)}, schema=Schema.of({"n": "int64"}).to_polars())
    with pytest.raises(ContractBroken, match="a_checkpoint_goes_on"):
        asyncio.run(check_processor(Count(), frame))


def test_a_law_that_does_not_exist_is_no_law():
    with pytest.raises(ValueError, match="unknown laws"):
        asyncio.run(check_processor(Count(), pl.DataFrame(), skip=["gravity"]))
