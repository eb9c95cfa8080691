"""Rows as messages over TCP and Unix sockets, to receivers that break off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from servers.certificates import make_certificate

from dataflare.connectors.socket.destination import SocketDestination
from dataflare.errors import ConfigError, DataFlareError
from dataflare.jobs import RunOptions, run
from dataflare.model.batch import SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.push.framing import Framing, Lengths, Lines
from dataflare.testing import destination_of
from dataflare.workflow.load import load_text

COLUMNS = Schema.of({"n": "int64"})
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Receiver:
    """Takes messages. breaks: how many the first connections take before they break."""

    def __init__(self, framing: Callable[[], Framing], reply: bytes, *breaks: int) -> None:
        self._framing, self._reply, self._breaks = framing, reply, list(breaks)
        self.taken: list[bytes] = []
        self.connections = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        framing, left = self._framing(), self._breaks.pop(0) if self._breaks else -1
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                for message in framing.feed(data):
                    if left == 0:
                        writer.transport.abort()
                        return
                    left -= 1
                    self.taken.append(message)
                    writer.write(self._reply)
                await writer.drain()
        writer.close()

    @property
    def numbers(self) -> list[int]:
        return [json.loads(each)["n"] for each in self.taken]


@contextlib.asynccontextmanager
async def at(place: str, receiver: Receiver, **options: Any) -> AsyncIterator[str]:
    """It listens; gives where."""
    if place.startswith("unix"):
        server = await asyncio.start_unix_server(receiver.talk, place.removeprefix("unix://"))
    else:
        server = await asyncio.start_server(receiver.talk, "127.0.0.1", 0, **options)
        place = f"tcp://localhost:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield place


async def send(folder: Path, place: str, frames: list[pl.DataFrame], **config: Any) -> None:
    made = destination_of("socket", {"connect": place, "timeout": "5s", **config})
    assert isinstance(made, SocketDestination)
    schema = Schema.from_polars(frames[0].schema)
    context = DestinationContext("out", "lineage", 1, schema, folder)
    await made.validate(schema)
    writer = await made.open(context, None)
    try:
        for frame in frames:
            await writer.write_batch(SharedDataBatch(frame))
        await writer.flush()
    finally:
        await writer.aclose()


def rows(*numbers: int) -> list[pl.DataFrame]:
    return [pl.DataFrame({"n": range(first, first + 500)}) for first in numbers]


def place_of(scheme: str, folder: Path) -> str:
    return f"unix://{folder}/s" if scheme == "unix" else "tcp"


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
def test_a_receiver_that_breaks_off_has_every_row_in_order_by_its_replies(
    tmp_path: Path, scheme: str
) -> None:
    """Only rows whose replies were lost with a connection come twice. The first connection is the one of `validate`."""
    receiver = Receiver(lambda: Lines(1 << 20), b"OK\n", 0, 300, 250)

    async def main() -> None:
        async with at(place_of(scheme, tmp_path), receiver) as place:
            await send(tmp_path, place, rows(0, 500, 1000), reply="OK\n")

    asyncio.run(asyncio.wait_for(main(), 30))
    assert list(dict.fromkeys(receiver.numbers)) == list(range(1_500))
    assert receiver.connections == 4


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
def test_what_a_dead_receivers_system_did_not_take_is_sent_to_the_next_one(
    tmp_path: Path, scheme: str
) -> None:
    """The first receiver reads nothing, and dies when the buffers between are full."""
    receiver = Receiver(lambda: Lines(1 << 20), b"")
    talk, full = receiver.talk, asyncio.Event()

    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if receiver.connections == 1:
            receiver.connections += 1
            writer.transport.pause_reading()
            await full.wait()
            writer.transport.abort()
            return
        await talk(reader, writer)

    receiver.talk = dies  # type: ignore[method-assign]
    frame = pl.DataFrame({"n": range(500), "text": ["x" * 20_000] * 500})

    async def main() -> None:
        async with at(place_of(scheme, tmp_path), receiver) as place:
            sending = asyncio.create_task(send(tmp_path, place, [frame]))
            done, _ = await asyncio.wait([sending], timeout=0.5)
            assert not done
            full.set()
            await sending
            while len(receiver.taken) < 500:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 30))
    assert receiver.numbers == list(range(500))


def test_messages_with_lengths_may_have_any_bytes_over_tls(tmp_path: Path) -> None:
    certificate = tmp_path / "server.crt"
    make_certificate(certificate, tmp_path / "server.key")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, tmp_path / "server.key")
    receiver = Receiver(lambda: Lengths(1 << 20, 2, "little"), b"+")
    frame = pl.DataFrame({"value": [b"a\nb", b"", b"\xff"]})
    more = {"format": "raw", "framing": "length", "length_bytes": 2, "byte_order": "little"}

    async def main() -> None:
        async with at("tcp", receiver, ssl=tls) as place:
            await send(tmp_path, place, [frame], reply="+", tls={"ca": str(certificate)}, **more)
            with pytest.raises(DataFlareError) as caught:
                await send(tmp_path, place, [frame], tls=True, **more)
            assert caught.value.code == "E0609"

    asyncio.run(asyncio.wait_for(main(), 30))
    assert receiver.taken == [b"a\nb", b"", b"\xff"]


def test_rows_that_cannot_be_a_line_are_dead_letters(tmp_path: Path) -> None:
    receiver = Receiver(lambda: Lines(1 << 20), b"")

    async def main() -> Any:
        async with at("tcp", receiver) as place:
            workflow = f"""\
name: w
sources:
  rows:
    type: inline
    config: {{rows: [{{t: good}}, {{t: "a\\nb"}}, {{t: ""}}, {{t: "a\\r"}}, {{t: "{"x" * 50}"}}]}}
destinations:
  out:
    type: socket
    inputs: [rows]
    config: {{connect: "{place}", format: text, max_message: 40B}}
    error_handling: {{on_error: dead_letter}}
"""
            loaded = load_text(workflow, base=tmp_path)
            result = await asyncio.to_thread(run, loaded, RunOptions(tmp_path / "home"))
            while not receiver.taken:
                await asyncio.sleep(0.01)
            return result

    result = asyncio.run(asyncio.wait_for(main(), 30))
    assert (result.error, result.steps["out"]["dead_letters"]) == (None, 4)
    assert receiver.taken == [b"good"]


def test_errors_name_what_is_wrong(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(DataFlareError) as caught:
            await send(tmp_path, "tcp://127.0.0.1:1", rows(0))
        assert (caught.value.code, "127.0.0.1:1" in str(caught.value)) == ("E0607", True)
        receiver = Receiver(lambda: Lines(1 << 20), b"NO\n")
        async with at("tcp", receiver) as place:
            with pytest.raises(DataFlareError) as caught:
                await send(tmp_path, place, rows(0), reply="OK\n")
        assert (caught.value.code, "NO" in str(caught.value)) == ("E0611", True)

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize(
    "wrong",
    [
        {"connect": "unixgram:///s"}, {"connect": "udp://:1"}, {"connect": "udp://h:1", "reply": "x"},
        {"connect": "udp://h:1", "framing": "lines"}, {"connect": "tcp://:1"}, {"tls": True, "connect": "unix:///s"},
        {"format": "avro", "schema": "{}"}, {"length_bytes": 2},
        {"format": "cloudevents", "cloudevents": {"mode": "binary"}},
    ],
)  # fmt: skip
def test_options_that_cannot_hold_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        destination_of("socket", {"connect": "tcp://h:1", **wrong})


def test_a_plan_says_what_is_known_of_messages() -> None:
    found = destination_of("socket", {"connect": "tcp://h:1"}).capabilities()
    assert (found.delivery.value, "'reply'" in found.reason) == ("at least once", True)
    found = destination_of("socket", {"connect": "udp://h:1"}).capabilities()
    assert (found.delivery.value, "lost" in found.reason) == ("at most once", True)


class Datagrams(asyncio.DatagramProtocol):
    """Takes datagrams."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.came = asyncio.Event()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.taken.append(data)
        self.came.set()


def test_each_row_is_a_datagram(tmp_path: Path) -> None:
    async def main() -> list[bytes]:
        loop = asyncio.get_running_loop()
        transport, taker = await loop.create_datagram_endpoint(
            Datagrams, local_addr=("127.0.0.1", 0)
        )
        port = transport.get_extra_info("sockname")[1]
        frame = pl.DataFrame({"n": range(50)})
        await send(tmp_path, f"udp://127.0.0.1:{port}", [frame])
        binary = pl.DataFrame({"value": [b"a\nb", b"\xff"]})
        await send(tmp_path, f"udp://127.0.0.1:{port}", [binary], format="raw")
        while len(taker.taken) < 52:
            taker.came.clear()
            await taker.came.wait()
        transport.close()
        return taker.taken

    taken = asyncio.run(asyncio.wait_for(main(), 30))
    assert [json.loads(each)["n"] for each in taken[:50]] == list(range(50))
    assert taken[50:] == [b"a\nb", b"\xff"]


def test_a_row_that_is_too_large_for_a_datagram_and_nobody_there_are_told(tmp_path: Path) -> None:
    async def main() -> list[DataFlareError]:
        found = []
        for text in ("x" * 70_000, "", "y"):
            frames = [pl.DataFrame({"value": [text]})] * 50
            with pytest.raises(DataFlareError) as caught:
                await send(tmp_path, "udp://127.0.0.1:9", frames, timeout="100ms", format="text")
            found.append(caught.value)
        return found

    large, empty, away = asyncio.run(asyncio.wait_for(main(), 30))
    assert (large.code, "65,507" in str(large)) == ("E0510", True)
    assert (empty.code, away.code) == ("E0510", "E0607")
