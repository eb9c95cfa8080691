"""Messages over TCP, UDP and Unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from servers.certificates import make_certificate

from dataflare.connectors.socket.source import SocketSource
from dataflare.errors import ConfigError, SystemError_
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.push.framing import Framing, Lengths, Lines, Syslog, TooLong
from dataflare.sdk.source import ChunkReader

COLUMNS = Schema.of({"n": "int64"})


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(type=kind) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def described(folder: Path, **config: Any) -> SocketSource:
    given = {"listen": f"tcp://127.0.0.1:{free_port()}", **config}
    context = ConnectorContext("inbox", folder, folder=folder / "state")
    made = SocketSource(SocketSource.Config.model_validate(given), context)
    made.contract = COLUMNS
    return made


@contextlib.asynccontextmanager
async def reading(source: SocketSource) -> AsyncIterator[ChunkReader]:
    (split,) = await source.splits()
    reader = await source.open(split, None)
    assert isinstance(reader, ChunkReader)
    try:
        yield reader
    finally:
        await reader.aclose()


async def rows_of(reader: ChunkReader, count: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        chunk = await asyncio.wait_for(reader.read_chunk(), 30)
        rows += chunk.scan().collect().to_dicts()
    return rows


async def connected(
    source: SocketSource, tls: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    place = source.config.endpoint
    if place.scheme == "unix":
        return await asyncio.open_unix_connection(place.place)
    host, _, port = place.place.rpartition(":")
    name = "localhost" if tls else None
    return await asyncio.open_connection(host, int(port), ssl=tls, server_hostname=name)


def line(n: int) -> bytes:
    return json.dumps({"n": n}).encode()


def numbers(rows: list[dict[str, Any]]) -> list[int]:
    return [row["n"] for row in rows]


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
def test_lines_of_a_connection_are_rows_and_are_answered(tmp_path: Path, scheme: str) -> None:
    config = {"listen": f"unix://{tmp_path}/in.sock"} if scheme == "unix" else {}
    source = described(tmp_path, reply="OK\n", metadata=["address", "time"], **config)

    async def ask() -> None:
        async with reading(source) as reader:
            incoming, outgoing = await connected(source)
            outgoing.write(b"\n".join(line(n) for n in range(5)) + b"\r\n\n" + line(5))
            assert await incoming.readexactly(15) == b"OK\n" * 5
            outgoing.write_eof()
            assert await incoming.read() == b"OK\n"
            outgoing.close()
            await outgoing.wait_closed()
            rows = await rows_of(reader, 6)
            assert numbers(rows) == list(range(6))
            assert (rows[0]["_address"] is None) == (scheme == "unix")

    asyncio.run(ask())
    assert not (tmp_path / "in.sock").exists()


def test_messages_with_their_length_before_them(tmp_path: Path) -> None:
    source = described(tmp_path, framing="length", length_bytes=2, byte_order="little")

    async def ask() -> None:
        async with reading(source) as reader:
            _, outgoing = await connected(source)
            for n in range(300):
                outgoing.write(len(line(n)).to_bytes(2, "little") + line(n))
            await outgoing.drain()
            assert numbers(await rows_of(reader, 300)) == list(range(300))
            outgoing.write(b"\x05\x00{}")
            outgoing.close()
            await outgoing.wait_closed()
            while not reader.warnings:
                await asyncio.sleep(0)
            assert "inside a message" in next(iter(reader.warnings))

    asyncio.run(ask())


@pytest.mark.parametrize("framing", [None, "lines"])
def test_datagrams_are_rows(tmp_path: Path, framing: str | None) -> None:
    port = free_port(socket.SOCK_DGRAM)
    source = described(tmp_path, listen=f"udp://127.0.0.1:{port}", framing=framing)

    async def ask() -> None:
        async with reading(source) as reader:
            with socket.socket(type=socket.SOCK_DGRAM) as out:
                for n in range(0, 100, 2):
                    parts = [line(n), line(n + 1)]
                    for data in [b"\n".join(parts)] if framing else parts:
                        out.sendto(data, ("127.0.0.1", port))
            assert numbers(await rows_of(reader, 100)) == list(range(100))

    asyncio.run(ask())


def test_datagrams_at_a_path(tmp_path: Path) -> None:
    path = tmp_path / "in.sock"
    source = described(tmp_path, listen=f"unixgram://{path}")

    async def ask() -> None:
        for _ in range(2):
            async with reading(source) as reader:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                    out.connect(str(path))
                    out.send(line(1))
                # The second reader may also get the row of the first one, which was not committed.
                assert set(numbers(await rows_of(reader, 1))) == {1}

    asyncio.run(ask())


def test_a_socket_that_a_dead_program_left_is_taken_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = tmp_path / "in.sock"
    source = described(tmp_path, listen=f"unix://{path}")

    async def ask() -> None:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            other.listen()
            with pytest.raises(SystemError_, match="in use") as caught:
                async with reading(source):
                    pass
            assert caught.value.code == "E0614"
        async with reading(source) as reader:
            _, outgoing = await connected(source)
            outgoing.write(line(1) + b"\n")
            assert numbers(await rows_of(reader, 1)) == [1]
            outgoing.close()
            await outgoing.wait_closed()

    async def refused() -> None:
        async with reading(source):
            pass

    asyncio.run(ask())
    path.write_text("a file")
    with pytest.raises(SystemError_, match="not a socket"):
        asyncio.run(refused())
    assert path.read_text() == "a file"


def test_a_full_log_makes_a_connection_wait(tmp_path: Path) -> None:
    source = described(tmp_path, log={"max_size": "64KiB"}, max_message="4KiB", reply=".")
    count = 400
    rows = [line(n)[:-1] + b', "pad": "' + b"x" * 500 + b'"}\n' for n in range(count)]

    async def ask() -> None:
        async with reading(source) as reader:
            incoming, outgoing = await connected(source)

            async def send() -> None:
                for row in rows:
                    outgoing.write(row)
                    await outgoing.drain()

            sending = asyncio.ensure_future(send())
            found: list[dict[str, Any]] = []
            while len(found) < count:
                found += await rows_of(reader, 1)
                await source.committed({"log": reader.position()})
            await sending
            assert await incoming.readexactly(count) == b"." * count
            assert numbers(found) == list(range(count))
            outgoing.close()
            await outgoing.wait_closed()

    asyncio.run(ask())
    assert sum(f.stat().st_size for f in (tmp_path / "state/push/inbox").iterdir()) <= 64 << 10


def test_too_large_messages_and_too_many_connections_are_closed(tmp_path: Path) -> None:
    source = described(tmp_path, max_message="100B", max_connections=1)

    async def ask() -> dict[str, int]:
        async with reading(source) as reader:
            incoming, outgoing = await connected(source)
            outgoing.write(line(1) + b"\n")
            assert numbers(await rows_of(reader, 1)) == [1]
            second, other = await connected(source)
            assert await second.read() == b""
            outgoing.write(b"x" * 200)
            assert await incoming.read() == b""
            for each in (outgoing, other):
                each.close()
            return dict(reader.warnings)

    told = asyncio.run(ask())
    assert sorted(told.values()) == [1, 1]
    assert any("100 bytes" in text for text in told)
    assert any("there were 1 others" in text for text in told)


def test_tls_with_a_certificate_of_the_client(tmp_path: Path) -> None:
    certificate, key = tmp_path / "a.crt", tmp_path / "a.key"
    make_certificate(certificate, key)
    tls = {"certificate": "a.crt", "key": "a.key", "client_ca": "a.crt"}
    source = described(tmp_path, tls=tls, reply=".")
    known = ssl.create_default_context(cafile=str(certificate))

    async def ask() -> None:
        async with reading(source) as reader:
            incoming, outgoing = await connected(source, known)
            # TLS 1.3: the server refuses behind the handshake of the client.
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                outgoing.write(line(0) + b"\n")
                assert await incoming.read() == b""
            outgoing.close()
            known.load_cert_chain(certificate, key)
            incoming, outgoing = await connected(source, known)
            outgoing.write(line(1) + b"\n")
            assert await incoming.readexactly(1) == b"."
            assert numbers(await rows_of(reader, 1)) == [1]
            outgoing.close()

    asyncio.run(ask())


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = described(tmp_path, tls={"certificate": "no.crt", "key": "no.key"})

    async def ask() -> None:
        async with reading(source):
            pass

    with pytest.raises(ConfigError, match="certificates of 'tls'") as caught:
        asyncio.run(ask())
    assert caught.value.code == "E0425"


@given(
    st.sampled_from(["lines", "length", "counted", "newlines"]),
    st.lists(st.binary(min_size=1, max_size=40), max_size=12),
    st.lists(st.integers(1, 30), min_size=1, max_size=40),
)
def test_messages_do_not_depend_on_how_their_bytes_are_parted(
    kind: str, messages: list[bytes], parts: list[int]
) -> None:
    framing: Framing
    if kind == "length":
        framing = Lengths(100, 4, "big")
        data = b"".join(len(m).to_bytes(4, "big") + m for m in messages)
    elif kind == "counted":
        framing = Syslog(100)
        data = b"".join(b"%d %s" % (len(m), m) for m in messages)
    else:
        cleaned = (m.replace(b"\n", b"").replace(b"\r", b"").replace(b"\0", b"") for m in messages)
        messages = [m for m in cleaned if m and not m[:1].isdigit()]
        framing = Lines(100) if kind == "lines" else Syslog(100)
        data = b"\n".join(messages)
    found: list[bytes] = []
    for size in parts * (len(data) // sum(parts) + 1):
        found += framing.feed(data[:size])
        data = data[size:]
    assert [*found, *framing.feed(data), *framing.rest()] == messages


@pytest.mark.parametrize(
    "data", [b"101 " + b"x" * 101, b"99999999999 x", b"1234567890123", b"x" * 101]
)
def test_syslog_that_is_too_long_cannot_be_read_further(data: bytes) -> None:
    framing = Syslog(100)
    with pytest.raises(TooLong):
        framing.feed(data)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"listen": "127.0.0.1:9"}, "tcp://host:port"),
        ({"listen": "tcp://9"}, "host:port"),
        ({"listen": "udp://:9", "reply": "x"}, "'reply' is for connections"),
        ({"listen": "udp://:9", "framing": "length"}, "is for connections"),
        ({"listen": "unix:///x", "tls": {"certificate": "a", "key": "b"}}, "'tls' is for"),
        ({"length_bytes": 2}, "are for framing: length"),
        ({"max_message": "1GiB"}, "an eighth"),
    ],
)
def test_wrong_options_are_named(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        SocketSource.Config.model_validate({"listen": "tcp://:9", **config})
