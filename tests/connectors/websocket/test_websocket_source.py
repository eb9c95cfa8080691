"""The websocket source, from a server of another library."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from websockets.asyncio.server import ServerConnection, serve

from dataflare.connectors.websocket.source import WebsocketSource
from dataflare.errors import DataFlareError
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import ChunkReader, EndOfSplit

COLUMNS = Schema.of({"n": "int64"})
Talk = Callable[[ServerConnection], Awaitable[None]]


def described(folder: Path, url: str, **config: Any) -> WebsocketSource:
    context = ConnectorContext("inbox", folder, folder=folder / "state")
    made = WebsocketSource(WebsocketSource.Config.model_validate({"url": url, **config}), context)
    made.contract = COLUMNS
    return made


@contextlib.asynccontextmanager
async def server(talk: Talk, **options: Any) -> AsyncIterator[str]:
    async with serve(talk, "127.0.0.1", 0, **options) as made:
        port = next(iter(made.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/feed"


@contextlib.asynccontextmanager
async def reading(source: WebsocketSource) -> AsyncIterator[ChunkReader]:
    (split,) = await source.splits()
    reader = await source.open(split, None)
    assert isinstance(reader, ChunkReader)
    try:
        yield reader
    finally:
        await reader.aclose()


async def rows_of(reader: ChunkReader, count: int | None) -> list[dict[str, Any]]:
    """So many rows, or all."""
    rows: list[dict[str, Any]] = []
    with contextlib.suppress(EndOfSplit):
        while count is None or len(rows) < count:
            chunk = await asyncio.wait_for(reader.read_chunk(), 30)
            rows += chunk.scan().collect().to_dicts()
    return rows


def text(n: int) -> str:
    return json.dumps({"n": n})


def test_messages_are_rows_to_the_end_of_the_connection(tmp_path: Path) -> None:
    heard: list[Any] = []

    async def talk(connection: ServerConnection) -> None:
        heard.extend([await connection.recv(), await connection.recv()])
        assert connection.request is not None
        heard.append(connection.request.path)
        heard.append(connection.request.headers["Authorization"])
        for n in range(3_000):
            await connection.send(text(n) if n % 2 else text(n).encode())

    async def ask() -> list[dict[str, Any]]:
        async with server(talk) as url:
            source = described(
                tmp_path, url, end=True, subscribe=["hello", {"op": "subscribe"}], metadata=["kind"],
                auth={"type": "basic", "username": "u", "password": "p"}, params={"a": True},
            )  # fmt: skip
            assert source.capabilities().bounded
            async with reading(source) as reader:
                return await rows_of(reader, None)

    rows = asyncio.run(ask())
    assert [row["n"] for row in rows] == list(range(3_000))
    assert {row["_kind"] for row in rows[::2]} == {"binary"}
    assert heard == ["hello", '{"op":"subscribe"}', "/feed?a=true", "Basic dTpw"]


@pytest.mark.parametrize("breaks", ["closes", "dies", "restarts"])
def test_a_connection_that_breaks_is_made_again_and_said(tmp_path: Path, breaks: str) -> None:
    connections = 0

    async def talk(connection: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        first = connections * 10
        for n in range(first, first + 10):
            await connection.send(text(n))
        if breaks == "dies":
            await connection.wait_closed() if connections > 2 else connection.transport.abort()
        elif breaks == "restarts":
            await connection.close(1012)
        if connections > 2:
            await connection.wait_closed()

    async def ask() -> None:
        async with server(talk) as url, reading(described(tmp_path, url)) as reader:
            rows = await rows_of(reader, 20 if breaks != "dies" else 11)
            assert [row["n"] for row in rows[-5:]] == sorted(row["n"] for row in rows[-5:])
            assert connections >= 2
            (told,) = reader.warnings
            assert "made again" in told

    asyncio.run(ask())


def test_a_silent_server_is_asked_whether_it_is_there(tmp_path: Path) -> None:
    done = asyncio.Event()

    async def talk(connection: ServerConnection) -> None:
        await connection.send(text(1))
        connection.transport.pause_reading()
        await done.wait()
        connection.transport.abort()

    async def ask() -> None:
        options = {"close_timeout": 0.1, "ping_interval": None}
        async with (
            server(talk, **options) as url,
            reading(described(tmp_path, url, heartbeat="200ms")) as reader,
        ):
            assert [row["n"] for row in await rows_of(reader, 2)] == [1, 1]
            done.set()

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "E0606"), (403, "E0602"), (404, "E0604"), (200, "E0611")],
)
def test_a_refusal_that_stays_is_an_error(tmp_path: Path, status: int, code: str) -> None:
    def refuse(connection: ServerConnection, request: Any) -> Any:
        return connection.respond(HTTPStatus(status), "no")

    async def talk(connection: ServerConnection) -> None:
        raise AssertionError("it is refused before")

    async def ask() -> None:
        async with (
            server(talk, process_request=refuse) as url,
            reading(described(tmp_path, f"{url}?key=s3cret")) as reader,
        ):
            await rows_of(reader, 1)

    with pytest.raises(DataFlareError) as caught:
        asyncio.run(ask())
    assert caught.value.code == code
    assert "s3cret" not in caught.value.message


def test_a_server_that_stays_away_is_an_error(tmp_path: Path) -> None:
    async def ask() -> None:
        async with reading(described(tmp_path, "ws://127.0.0.1:9/", timeout="1ms")) as reader:
            await rows_of(reader, 1)

    with pytest.raises(DataFlareError) as caught:
        asyncio.run(ask())
    assert caught.value.code in ("E0607", "E0608")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"url": "http://a/"}, "ws://"),
        ({"url": "ws://u:p@a/"}, "'auth'"),
        ({"auth": {"type": "bearer"}}, "needs 'token'"),
    ],
)
def test_wrong_options_are_named(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        WebsocketSource.Config.model_validate({"url": "ws://a/", **config})
