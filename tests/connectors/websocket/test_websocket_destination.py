"""Rows as messages to a WebSocket server of another library, which breaks off."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from test_websocket_source import server
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from dataflare.errors import ConfigError, DataFlareError
from dataflare.model.batch import SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.testing import FaultProxy, destination_of


async def send(folder: Path, url: str, frames: list[pl.DataFrame], **config: Any) -> None:
    made = destination_of("websocket", {"url": url, "timeout": "5s", **config})
    schema = Schema.from_polars(frames[0].schema)
    await made.validate(schema)
    context = DestinationContext("out", "lineage", 1, schema, folder)
    writer = await made.open(context, None)
    try:
        for frame in frames:
            await writer.write_batch(SharedDataBatch(frame))
    finally:
        await writer.aclose()


def test_a_server_that_breaks_off_has_every_row_in_order_by_its_replies(tmp_path: Path) -> None:
    """Only rows whose replies were lost come twice. The first connection is the one of `validate`."""
    taken: list[int] = []
    breaks = [0, 1_200, 700]

    async def talk(connection: ServerConnection) -> None:
        left = breaks.pop(0) if breaks else -1
        await connection.send("hello")
        async for message in connection:
            if left == 0:
                connection.transport.abort()
                return
            left -= 1
            taken.append(json.loads(message)["n"])
            await connection.send("OK")

    async def main() -> None:
        async with server(talk) as url:
            frames = [pl.DataFrame({"n": range(at, at + 2_500)}) for at in (0, 2_500)]
            await send(tmp_path, url, frames, reply="OK")

    asyncio.run(asyncio.wait_for(main(), 30))
    assert list(dict.fromkeys(taken)) == list(range(5_000))
    assert breaks == []


def test_messages_of_a_connection_that_is_lost_are_sent_again(tmp_path: Path) -> None:
    """Between the server and the run is a network that breaks."""
    taken: list[int] = []

    async def talk(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                taken.append(json.loads(message)["n"])

    async def main() -> None:
        async with server(talk) as url:
            port = int(url.partition("127.0.0.1:")[2].partition("/")[0])
            with FaultProxy("127.0.0.1", port, seed=3) as proxy:
                broken = url.replace(f":{port}", f":{proxy.port}")
                frame = pl.DataFrame({"n": range(20_000)})
                sending = asyncio.create_task(send(tmp_path, broken, [frame]))
                for part in (2_000, 6_000):
                    while len(taken) < part:
                        await asyncio.sleep(0.001)
                    proxy.reset()
                await sending

    asyncio.run(asyncio.wait_for(main(), 30))
    assert set(taken) == set(range(20_000))


def test_text_and_bytes_are_sent_with_credentials(tmp_path: Path) -> None:
    heard: list[Any] = []

    async def talk(connection: ServerConnection) -> None:
        assert connection.request is not None
        heard.append(connection.request.headers["Authorization"])
        async for message in connection:
            heard.append(message)

    async def main() -> None:
        auth = {"type": "bearer", "token": "t0ken"}
        async with server(talk) as url:
            for format_ in ("text", "raw"):
                frame = pl.DataFrame({"value": ["a"]}).select(
                    pl.col("value").cast(pl.String if format_ == "text" else pl.Binary)
                )
                await send(tmp_path, url, [frame], format=format_, auth=auth)

    asyncio.run(asyncio.wait_for(main(), 30))
    # Each run looks first whether the server is there.
    assert heard == ["Bearer t0ken", "Bearer t0ken", "a", "Bearer t0ken", "Bearer t0ken", b"a"]


def test_a_message_that_the_server_refuses_is_an_error_and_not_a_loop(tmp_path: Path) -> None:
    connections = 0

    async def talk(connection: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        try:
            async for _ in connection:
                continue
        except ConnectionClosed:
            return

    async def main() -> DataFlareError:
        async with server(talk, max_size=100) as url:
            with pytest.raises(DataFlareError) as caught:
                await send(tmp_path, url, [pl.DataFrame({"value": ["x" * 200]})], format="text")
        return caught.value

    found = asyncio.run(asyncio.wait_for(main(), 30))
    assert (found.code, "too large" in str(found), connections) == ("E0607", True, 2)


def test_a_server_that_is_away_is_an_error_and_options_without_effect_are_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(DataFlareError) as caught:
        asyncio.run(send(tmp_path, "ws://127.0.0.1:1/x?key=s3cret", [pl.DataFrame({"n": [1]})]))
    assert (caught.value.code, "s3cret" in str(caught.value)) == ("E0607", False)
    made = destination_of("websocket", {"url": "ws://h/x"}).capabilities()
    assert made.delivery.value == "at least once"
    options = {"format": "cloudevents", "cloudevents": {"mode": "binary"}}
    with pytest.raises(ConfigError):
        destination_of("websocket", {"url": "ws://h/x", **options})
