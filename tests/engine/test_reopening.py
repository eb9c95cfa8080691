"""A split is opened again where it stood, only where nothing is lost or doubled by it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.engine.reopening import ReopeningReader
from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.resilience.policy import RetryPolicy
from dataflare.resilience.retry import Retrying
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import (
    Chunk,
    ChunkReader,
    EndOfSplit,
    Replay,
    SourceBatch,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
)

LAST = 5


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 20))


def away(retry: Retry = Retry.LATER) -> SystemError_:
    return SystemError_("away", code="E0601", retry=retry)


class Numbers(SourceConnector):
    """The numbers 0 to LAST, one a batch. fails: before which number a read fails, once each time it is named.
    inside: the numbers behind which nothing may be cut."""

    def __init__(self, *fails: int, **options: Any) -> None:
        super().__init__(None, ConnectorContext("t"))
        self.fails = list(fails)
        self.replay, self.resumes, self.chunks = Replay.EXACT, False, False
        self.retry, self.inside, self.open_fails = Retry.LATER, frozenset[int](), 0
        for name, value in options.items():
            setattr(self, name, value)
        self.opened: list[int] = []
        self.readers: list[Any] = []

    def capabilities(self) -> SourceCapabilities:
        return SourceCapabilities(self.replay)

    async def schema(self) -> Schema:
        return Schema.of({"n": "int64"})

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return [Split("s")]

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        if self.open_fails:
            self.open_fails -= 1
            raise away()
        at = position.value["at"] if position else 0
        self.opened.append(at)
        reader = (ByChunk if self.chunks else ByBatch)(self, at)
        self.readers.append(reader)
        return reader


class _Reading:
    def __init__(self, source: Numbers, at: int) -> None:
        self.source, self.at, self.closed = source, at, 0
        self.resumes = source.resumes
        self.warnings = {"opened": 1}

    def next(self) -> int:
        if self.at in self.source.fails:
            self.source.fails.remove(self.at)
            raise away(self.source.retry)
        if self.at > LAST:
            raise EndOfSplit
        self.at += 1
        return self.at - 1

    def position(self) -> Position:
        return Position({"at": self.at})

    async def aclose(self) -> None:
        self.closed += 1


class ByBatch(_Reading, SplitReader):
    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        number = self.next()
        frame = pl.DataFrame({"n": [number]})
        return SourceBatch(frame, may_cut=number not in self.source.inside)


class ByChunk(_Reading, ChunkReader):
    async def read_chunk(self) -> Chunk:
        number = self.next()
        return Chunk(
            pl.LazyFrame({"n": [number]}).lazy,
            self.position(),
            number,
            8,
            may_cut=number not in self.source.inside,
        )


def reader_of(source: Numbers, position: Position | None = None) -> ReopeningReader:
    policy = RetryPolicy(max_attempts=4, initial_backoff="1ms")

    async def at_once(seconds: float) -> None:
        return None

    return ReopeningReader(source, Split("s"), position, Retrying("t", policy, sleep=at_once), 0.25)


async def numbers_of(reader: ReopeningReader) -> list[int]:
    """All that is read, until the end. Raises what a read raises."""
    numbers: list[int] = []
    by_chunk = await reader.gives_chunks()
    try:
        while True:
            if by_chunk:
                numbers += (await reader.read_chunk()).scan().collect()["n"].to_list()
            else:
                numbers += (await reader.read_batch(10)).frame["n"].to_list()
    except EndOfSplit:
        return numbers


@given(
    fails=st.lists(st.integers(0, LAST + 1), max_size=3),
    start=st.integers(0, LAST),
    chunks=st.booleans(),
    resumes=st.booleans(),
)
def test_each_number_comes_once_whatever_fails(
    fails: list[int], start: int, chunks: bool, resumes: bool
) -> None:
    async def main() -> None:
        source = Numbers(*fails, chunks=chunks, resumes=resumes)
        reader = reader_of(source, Position({"at": start}))
        assert await numbers_of(reader) == list(range(start, LAST + 1))
        met = sum(fail >= start for fail in fails)
        assert len(source.opened) == (1 if resumes else 1 + met)
        assert reader.end() == Position({"at": LAST + 1})
        await reader.aclose()
        assert [each.closed for each in source.readers] == [1] * len(source.readers)
        assert reader.warnings == {"opened": len(source.readers)}

    run(main())


@pytest.mark.parametrize("chunks", [False, True])
def test_without_replay_it_is_opened_again_only_before_its_first_rows(chunks: bool) -> None:
    async def main() -> None:
        source = Numbers(0, 0, replay=Replay.NONE, chunks=chunks)
        assert await numbers_of(reader_of(source)) == list(range(LAST + 1))
        assert source.opened == [0, 0, 0]
        source = Numbers(3, replay=Replay.NONE, chunks=chunks)
        with pytest.raises(DataFlareError, match="away"):
            await numbers_of(reader_of(source))
        assert source.opened == [0]
        with pytest.raises(DataFlareError):
            await numbers_of(reader_of(Numbers(2, replay=Replay.NONE), Position({"at": 2})))

    run(main())


@pytest.mark.parametrize("chunks", [False, True])
@pytest.mark.parametrize("resumes", [False, True])
def test_inside_a_transaction_nothing_is_opened_again(chunks: bool, resumes: bool) -> None:
    async def main() -> None:
        source = Numbers(2, 4, inside=frozenset({3}), chunks=chunks, resumes=resumes)
        reader = reader_of(source)
        if resumes:
            assert await numbers_of(reader) == list(range(LAST + 1))
            assert source.opened == [0]
            return
        with pytest.raises(DataFlareError):
            await numbers_of(reader)
        assert source.opened == [0, 2], "before the transaction, and not inside it"

    run(main())


def test_an_open_that_fails_is_made_again_and_what_cannot_help_is_not() -> None:
    async def main() -> None:
        source = Numbers(open_fails=2)
        assert await numbers_of(reader_of(source)) == list(range(LAST + 1))
        source = Numbers(1, retry=Retry.NEVER)
        with pytest.raises(DataFlareError):
            await numbers_of(reader_of(source))
        assert source.opened == [0]

    run(main())


def test_readers_are_told_how_long_they_may_hold_rows() -> None:
    async def main() -> None:
        source = Numbers(1)
        await numbers_of(reader_of(source))
        assert [each.hold_s for each in source.readers] == [0.25, 0.25]

    run(main())
