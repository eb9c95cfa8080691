"""Server-sent events, from a strict server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from dataflare.connectors.sse.events import Event, EventStream, TooLong
from dataflare.connectors.sse.source import SseSource
from dataflare.errors import DataFlareError
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import ChunkReader, EndOfSplit

COLUMNS = Schema.of({"n": "int64"})
Answer = Callable[["Server", web.Request], Any]


class Server:
    """Numbered events from 1 to `count`, those behind the last event that the client names; each connection gives
    `each` of them, and after them all the answer is 204."""

    def __init__(self, count: int, each: int, first: Answer | None = None) -> None:
        self.count, self.each, self.first = count, each, first
        self.asked: list[dict[str, str]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append({name.lower(): value for name, value in request.headers.items()})
        if self.first is not None and len(self.asked) == 1:
            found: web.StreamResponse = await self.first(self, request)
            return found
        after = int(request.headers.get("Last-Event-ID", "0"))
        if after >= self.count:
            return web.Response(status=204)
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await answer.prepare(request)
        await answer.write(b"retry: 1\n: a comment\n\n")
        for n in range(after + 1, min(after + self.each, self.count) + 1):
            await answer.write(
                b'event: %s\nid: %d\ndata: {"n":\ndata: %d}\n\n'
                % (b"odd" if n % 2 else b"even", n, n)
            )
        await answer.write(b"id: 999\ndata: {half")
        return answer

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        runner = web.ServerRunner(web.Server(self.answer, access_log=None))  # type: ignore[arg-type]
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/events"
        try:
            yield
        finally:
            await runner.cleanup()


def described(folder: Path, url: str, **config: Any) -> SseSource:
    context = ConnectorContext("inbox", folder, folder=folder / "state")
    made = SseSource(SseSource.Config.model_validate({"url": url, **config}), context)
    made.contract = COLUMNS
    return made


async def to_the_end(
    source: SseSource, position: Any = None
) -> tuple[list[dict[str, Any]], ChunkReader]:
    (split,) = await source.splits()
    reader = await source.open(split, position)
    assert isinstance(reader, ChunkReader)
    rows: list[dict[str, Any]] = []
    try:
        while True:
            chunk = await asyncio.wait_for(reader.read_chunk(), 30)
            rows += chunk.scan().collect().to_dicts()
    except EndOfSplit:
        return rows, reader
    finally:
        await reader.aclose()


def test_each_event_comes_once_over_connections_that_break(tmp_path: Path) -> None:
    server = Server(10, 3)

    async def ask() -> None:
        async with server.running():
            source = described(tmp_path, server.url, metadata=["id", "event"], headers={"X-A": "b"},
                               auth={"type": "bearer", "token": "t"})  # fmt: skip
            rows, reader = await to_the_end(source)
        assert [row["n"] for row in rows] == list(range(1, 11))
        assert [row["_id"] for row in rows] == [str(n) for n in range(1, 11)]
        assert rows[0]["_event"] == "odd"
        assert reader.warnings == {}

    asyncio.run(ask())
    assert [each.get("last-event-id") for each in server.asked] == [None, "3", "6", "9", "10"]
    assert {(each["x-a"], each["authorization"]) for each in server.asked} == {("b", "Bearer t")}


def test_a_run_goes_on_behind_the_last_event_of_the_log(tmp_path: Path) -> None:
    server = Server(7, 100)

    async def ask() -> None:
        async with server.running():
            await to_the_end(described(tmp_path, server.url))
            server.count = 9
            (split,) = await described(tmp_path, server.url).splits()
            rows, reader = await to_the_end(described(tmp_path, server.url, events=["odd"]))
            # A new reader without a position begins with the oldest message of the log.
            assert [row["n"] for row in rows] == [*range(1, 8), 9]
            assert reader.position().value["offset"] == 8
            assert split.id == "log"

    asyncio.run(ask())
    # The last event is not kept, so it is asked for again.
    assert [each.get("last-event-id") for each in server.asked] == [None, "7", "7", "9"]


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [(401, "", "E0606"), (403, "", "E0602"), (404, "", "E0604"), (400, "", "E0611"), (200, "text/html", "E0611")],
)  # fmt: skip
def test_a_refusal_that_stays_is_an_error(
    tmp_path: Path, status: int, kind: str, code: str
) -> None:
    async def refuse(_: Server, request: web.Request) -> web.Response:
        return web.Response(status=status, content_type=kind or "text/plain", text="no")

    server = Server(1, 1, refuse)

    async def ask() -> None:
        async with server.running():
            url = f"{server.url}?key=s3cret"
            await to_the_end(
                described(tmp_path, url, auth={"type": "query", "name": "k", "value": "s3cret"})
            )

    with pytest.raises(DataFlareError) as caught:
        asyncio.run(ask())
    assert caught.value.code == code
    assert "s3cret" not in caught.value.message


def test_a_server_that_is_away_for_a_moment_is_asked_again(tmp_path: Path) -> None:
    async def away(_: Server, request: web.Request) -> web.Response:
        return web.Response(status=503)

    server = Server(3, 3, away)

    async def ask() -> list[int]:
        async with server.running():
            rows, _ = await to_the_end(described(tmp_path, server.url))
            return [row["n"] for row in rows]

    assert asyncio.run(ask()) == [1, 2, 3]


def test_a_server_that_stays_away_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataFlareError) as caught:
        asyncio.run(to_the_end(described(tmp_path, "http://127.0.0.1:9/", timeout="1ms")))
    assert caught.value.code in ("E0607", "E0608")


def test_an_event_that_is_too_large_is_an_error(tmp_path: Path) -> None:
    server = Server(3, 3)

    async def ask() -> None:
        async with server.running():
            await to_the_end(described(tmp_path, server.url, max_message="5B"))

    with pytest.raises(DataFlareError, match="more than 5 bytes") as caught:
        asyncio.run(ask())
    assert caught.value.code == "E0503"


STREAM = (
    b"\xef\xbb\xbf: comment\r\n\r\ndata: one\n\ndata:two\rdata\rid:7\r\r\nid\ndata:  three\r\n\r\n"
    b"event: x\nretry: 250\nretry: y\nunknown: z\ndata: {}\nid: a\0b\n\nid: 9\n\nevent: lost\n\ndata: last\n\ndata: no"
)
EVENTS = [
    Event(b"one", "message", ""),
    Event(b"two\n", "message", "7"),
    Event(b" three", "message", ""),
    Event(b"{}", "x", ""),
    Event(b"last", "message", "9"),
]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=60))
def test_events_do_not_depend_on_how_their_bytes_are_parted(parts: list[int]) -> None:
    stream, rest = EventStream(1_000), STREAM
    found: list[Event] = []
    for size in parts * (len(STREAM) // sum(parts) + 1):
        found += stream.feed(rest[:size])
        rest = rest[size:]
    assert found == EVENTS
    assert stream.retry_s == 0.25
    assert stream.last_id == "9"


def test_an_event_without_an_end_is_too_long() -> None:
    stream = EventStream(100)
    with pytest.raises(TooLong):
        stream.feed(b"data: " + b"x" * 200)


def test_rows_are_those_that_were_sent() -> None:
    assert json.loads(b'{"n":\n1}') == {"n": 1}
