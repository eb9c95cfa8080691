"""Pieces are encoded side by side and appended in order, and none after one that failed."""

from __future__ import annotations

import asyncio
import threading

import polars as pl
import pytest

from dataflare.connectors.file.buffering import EncodeBuffer


def rows(*values: int) -> pl.DataFrame:
    return pl.DataFrame({"x": values})


class Encoder:
    """Encodes to the list of values. held: pieces that begin with such a value wait for their event."""

    def __init__(self, *held: int) -> None:
        self.held = {value: threading.Event() for value in held}
        self.begun = {value: threading.Event() for value in range(100)}
        self.appended: list[list[int]] = []
        self.threads_appending = 0

    def encode(self, frame: pl.DataFrame) -> list[int]:
        values = frame["x"].to_list()
        self.begun[values[0]].set()
        if values[0] in self.held:
            assert self.held[values[0]].wait(30)
        return values

    def append(self, piece: list[int]) -> None:
        self.threads_appending += 1
        assert self.threads_appending == 1
        self.appended.append(piece)
        self.threads_appending -= 1


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 30)


def test_a_piece_that_is_ready_first_waits_for_the_one_before():
    encoder = Encoder(1)

    async def check() -> None:
        buffer = EncodeBuffer(encoder.encode, encoder.append, rows_max=2)
        await buffer.add(rows(1, 2, 3, 4, 5), 40)
        await until(encoder.begun[3])
        assert encoder.appended == []
        encoder.held[1].set()
        assert await buffer.call(lambda: len(encoder.appended)) == 3
        await buffer.aclose()

    asyncio.run(check())
    assert encoder.appended == [[1, 2], [3, 4], [5]]


def test_no_more_than_two_pieces_are_under_way():
    encoder = Encoder(1, 2)

    async def check() -> None:
        buffer = EncodeBuffer(encoder.encode, encoder.append, rows_max=1)
        adding = asyncio.ensure_future(buffer.add(rows(1, 2, 3), 24))
        await until(encoder.begun[1])
        await until(encoder.begun[2])
        encoder.held[2].set()
        assert not adding.done()
        assert not encoder.begun[3].is_set()
        encoder.held[1].set()
        await adding
        await buffer.call(lambda: None)

    asyncio.run(check())
    assert encoder.appended == [[1], [2], [3]]


@pytest.mark.parametrize("where", ["encode", "append"])
def test_nothing_is_appended_after_a_piece_that_failed(where):
    encoder = Encoder(1)

    def failing(piece):
        encoder.held[1].wait(30)
        if (piece["x"].to_list() if isinstance(piece, pl.DataFrame) else piece)[0] == 1:
            raise OSError("the disk is full")
        return getattr(encoder, where)(piece)

    async def check() -> None:
        call = {"encode": encoder.encode, "append": encoder.append, where: failing}
        buffer = EncodeBuffer(call["encode"], call["append"], rows_max=1)
        await buffer.add(rows(1, 2), 16)
        encoder.held[1].set()
        with pytest.raises(OSError, match="disk"):
            await buffer.call(lambda: None)
        await buffer.aclose()

    asyncio.run(check())
    assert encoder.appended == []


def test_closing_waits_for_the_threads():
    encoder = Encoder(1)

    async def check() -> None:
        buffer = EncodeBuffer(encoder.encode, encoder.append, rows_max=1)
        await buffer.add(rows(1), 8)
        await until(encoder.begun[1])
        closing = asyncio.ensure_future(buffer.aclose())
        done, _ = await asyncio.wait([closing], timeout=0)
        assert not done
        encoder.held[1].set()
        await closing

    asyncio.run(check())
    assert encoder.appended == [[1]]
