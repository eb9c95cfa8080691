"""The laws of sources and destinations for what keeps a connection open: websocket, sse and socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from aiohttp import WSMsgType, web
from conformance import destination_laws, source_laws

from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, run
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.registry import source as source_class
from dataflare.testing import FaultProxy, destination_of
from dataflare.workflow.load import load_text

COUNT = 60
NUMBERS = [{"n": n} for n in range(COUNT)]
ROWS = pl.DataFrame({"n": range(40), "text": [f"row {n}" for n in range(40)]})


class Server:
    """Rows, each once, over a WebSocket and as events, and what it is sent. An event has its place as its
    id, and each answer gives `each` events."""

    def __init__(self, rows: Sequence[Any] = NUMBERS, each: int = COUNT) -> None:
        self.rows, self.count, self.each, self.next = rows, len(rows), each, 0
        self.taken: list[str] = []
        self.port = 0

    async def _feed(self, request: web.Request) -> web.StreamResponse:
        connection = web.WebSocketResponse()
        await connection.prepare(request)
        while self.next < self.count:
            await connection.send_str(json.dumps(self.rows[self.next]))
            self.next += 1
        await connection.close()
        return connection

    async def _events(self, request: web.Request) -> web.StreamResponse:
        first = int(request.headers.get("Last-Event-ID", "-1")) + 1
        if first >= self.count:
            return web.Response(status=204)
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b"retry: 1\n\n")
        for n in range(first, min(first + self.each, self.count)):
            await answer.write(b"id: %d\ndata: %s\n\n" % (n, json.dumps(self.rows[n]).encode()))
        return answer

    async def _collect(self, request: web.Request) -> web.StreamResponse:
        connection = web.WebSocketResponse()
        await connection.prepare(request)
        async for message in connection:
            if message.type is WSMsgType.TEXT:
                self.taken.append(f"{request.path} {message.data}")
                await connection.send_str("OK")
        return connection

    async def _lines(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self.taken.append(line.decode())
            writer.write(b"OK\n")
        writer.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/feed", self._feed)
        app.router.add_get("/events", self._events)
        app.router.add_get("/collect/{name}", self._collect)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        lines = await asyncio.start_server(self._lines, "127.0.0.1", 0)
        self.port = runner.addresses[0][1]
        self.lines = lines.sockets[0].getsockname()[1]
        try:
            async with lines:
                yield
        finally:
            await runner.cleanup()


def described(type_: str, folder: Path, port: int, **more: Any) -> Any:
    url = {"websocket": f"ws://127.0.0.1:{port}/feed", "sse": f"http://127.0.0.1:{port}/events"}
    more = {"url": url[type_], **({"end": True} if type_ == "websocket" else {}), **more}
    class_ = source_class(type_)
    context = ConnectorContext("inbox", folder, folder=folder / "state")
    made = class_(class_.Config.model_validate(more), context)
    made.contract = Schema.of({"n": "int64"})
    return made


async def numbers(reader: Any) -> list[int]:
    found: list[int] = []
    while len(found) < COUNT:
        chunk = await asyncio.wait_for(reader.read_chunk(), 30)
        found += chunk.scan().collect()["n"].to_list()
    return found


async def keeps(type_: str, folder: Path) -> None:
    server = Server()
    async with server.running():
        make = lambda: described(type_, folder, server.port)  # noqa: E731
        if type_ == "sse":
            await source_laws("sse", make)
        else:
            await source_laws("websocket", make)


@pytest.mark.parametrize("type_", ["websocket", "sse"])
def test_it_keeps_the_contract_of_sources(tmp_path: Path, type_: str) -> None:
    """What came is in the log, from which each reader reads; the server sends it once."""
    asyncio.run(keeps(type_, tmp_path))


@pytest.mark.parametrize("type_", ["websocket", "sse"])
def test_two_runs_do_not_read_one_log(tmp_path: Path, type_: str) -> None:
    async def both() -> None:
        server = Server()
        async with server.running():
            first, second = (described(type_, tmp_path, server.port) for _ in range(2))
            (split,) = await first.splits()
            reader = await first.open(split, None)
            with pytest.raises(DataFlareError) as caught:
                await second.open(split, None)
            assert caught.value.code == "E0605"
            assert sorted(await numbers(reader)) == list(range(COUNT))
            await reader.aclose()

    asyncio.run(both())


def test_each_event_comes_once_over_a_network_that_breaks(tmp_path: Path) -> None:
    async def read() -> None:
        server = Server(each=7)
        async with server.running():
            with FaultProxy("127.0.0.1", server.port, seed=5) as proxy:
                source = described("sse", tmp_path, proxy.port)
                (split,) = await source.splits()
                reader = await source.open(split, None)
                found: list[int] = []
                while len(found) < COUNT:
                    chunk = await asyncio.wait_for(reader.read_chunk(), 30)
                    found += chunk.scan().collect()["n"].to_list()
                    (proxy.reset, proxy.half_open, proxy.cut)[len(found) % 3]()
                await reader.aclose()
        assert found == list(range(COUNT))

    asyncio.run(read())


def test_the_example_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = Path(__file__).parents[3] / "examples" / "push" / "relay.yaml"
    prices = [{"symbol": f"s{n}", "price": n * 7.5} for n in range(30)]

    async def relay() -> list[str]:
        server = Server(prices)
        async with server.running():
            monkeypatch.setenv("FEED", f"ws://127.0.0.1:{server.port}/feed")
            monkeypatch.setenv("COLLECTOR", f"tcp://127.0.0.1:{server.lines}")
            loaded = load_text(example.read_text(), base=tmp_path)
            result = await asyncio.to_thread(run, loaded, RunOptions(tmp_path / "home"))
        assert result.error is None
        return server.taken

    taken = asyncio.run(asyncio.wait_for(relay(), 60))
    assert [json.loads(each) for each in taken] == [p for p in prices if p["price"] > 100]


def read_back(taken: list[str], start: str = "") -> pl.DataFrame:
    values = [each.removeprefix(start) for each in taken if each.startswith(start)]
    return pl.DataFrame([json.loads(each) for each in values], schema=ROWS.schema)


def test_websocket_keeps_the_contract_of_destinations(tmp_path: Path) -> None:
    async def check() -> None:
        server = Server()

        def name(folder: Path) -> str:
            return "/collect/" + "-".join(folder.relative_to(tmp_path).parts or ("all",))

        def make(folder: Path) -> Any:
            url = f"ws://127.0.0.1:{server.port}{name(folder)}"
            return destination_of("websocket", {"url": url, "reply": "OK"}, base=folder)

        def read(folder: Path) -> pl.DataFrame:
            return read_back(server.taken, f"{name(folder)} ")

        async with server.running():
            await destination_laws("websocket", make, read, tmp_path, frame=ROWS)

    asyncio.run(check())


def test_socket_keeps_the_contract_of_destinations(tmp_path: Path) -> None:
    async def check() -> None:
        server = Server()
        seen = 0

        def make(folder: Path) -> Any:
            connect = f"tcp://127.0.0.1:{server.lines}"
            return destination_of("socket", {"connect": connect, "reply": "OK\n"}, base=folder)

        def read(folder: Path) -> pl.DataFrame:
            nonlocal seen
            found = read_back(server.taken[seen:])
            seen = len(server.taken)
            return found

        async with server.running():
            await destination_laws("socket", make, read, tmp_path, frame=ROWS)

    asyncio.run(check())
