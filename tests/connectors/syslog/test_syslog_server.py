"""A real rsyslog sends to the syslog source."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from servers import rsyslog
from servers.certificates import make_certificate
from servers.rsyslog import Rsyslog

from dataflare.connectors.syslog.source import SyslogSource
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import ChunkReader
from dataflare.sdk.threads import in_thread


@pytest.fixture
def sender() -> Iterator[Rsyslog]:
    with rsyslog.server() as made:
        yield made


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def described(folder: Path, **config: Any) -> SyslogSource:
    context = ConnectorContext("logs", folder, folder=folder / "state")
    return SyslogSource(SyslogSource.Config.model_validate(config), context)


async def rows_of(reader: ChunkReader, count: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        chunk = await asyncio.wait_for(reader.read_chunk(), 60)
        rows += chunk.scan().collect().to_dicts()
    return rows


def forwarded(port: int, **more: str) -> str:
    options = {"type": "omfwd", "target": "127.0.0.1", "port": str(port), **more}
    return f"action({' '.join(f'{name}={value!r}' for name, value in options.items())})".replace(
        "'", '"'
    )


@pytest.mark.parametrize(
    ("scheme", "more"),
    [
        ("udp", {"protocol": "udp", "template": "RSYSLOG_SyslogProtocol23Format"}),
        ("tcp", {"protocol": "tcp", "template": "RSYSLOG_SyslogProtocol23Format", "TCP_Framing": "octet-counted"}),
        ("tcp", {"protocol": "tcp", "template": "RSYSLOG_TraditionalForwardFormat"}),
        ("tls", {"protocol": "tcp", "template": "RSYSLOG_ForwardFormat", "StreamDriver": "gtls",
                 "StreamDriverMode": "1", "StreamDriverAuthMode": "x509/name",
                 "StreamDriverPermittedPeers": "localhost"}),
    ],
    ids=["udp", "tcp-counted", "tcp-lines", "tls"],
)  # fmt: skip
def test_rsyslog_is_understood(
    tmp_path: Path, sender: Rsyslog, scheme: str, more: dict[str, str]
) -> None:
    port, count = free_port(), 300
    config: dict[str, Any] = {"listen": f"{'udp' if scheme == 'udp' else 'tcp'}://127.0.0.1:{port}"}
    ca = None
    if scheme == "tls":
        ca = tmp_path / "a.crt"
        make_certificate(ca, tmp_path / "a.key", "DNS:localhost,IP:127.0.0.1")
        config["tls"] = {"certificate": "a.crt", "key": "a.key"}
    source = described(tmp_path, **config)

    async def ask() -> list[dict[str, Any]]:
        (split,) = await source.splits()
        reader = await source.open(split, None)
        assert isinstance(reader, ChunkReader)
        try:
            await in_thread(sender.start, [forwarded(port, **more)], ca)
            await in_thread(
                sender.log,
                [f"<{16 * 8 + 3}>Jan  2 03:04:05 app[{n}]: größe {n}" for n in range(count)],
            )
            return await rows_of(reader, count)
        finally:
            await reader.aclose()

    rows = asyncio.run(ask())
    assert [row["message"].strip() for row in rows] == [f"größe {n}" for n in range(count)]
    assert [row["process_id"] for row in rows] == [str(n) for n in range(count)]
    told = "rfc5424" if "Protocol23" in more["template"] else "rfc3164"
    assert {(r["facility"], r["severity"], r["app_name"], r["protocol"]) for r in rows} == {
        ("local0", "err", "app", told)
    }
    assert all(row["hostname"] for row in rows)
    assert all(row["address"].startswith("127.0.0.1:") for row in rows)
    assert all(abs((row["received_at"] - row["timestamp"]).days) < 367 for row in rows)


def test_several_addresses_and_bytes_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "log.sock"
    source = described(tmp_path, listen=[f"unixgram://{path}", f"tcp://127.0.0.1:{free_port()}"])

    async def ask() -> tuple[list[str], list[str]]:
        (split,) = await source.splits()
        reader = await source.open(split, None)
        assert isinstance(reader, ChunkReader)
        try:
            with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as out:
                out.connect(str(path))
                for data in (b"<13>one\n", b"<13>\xff\xfe", b"<13>two\0"):
                    out.send(data)
            found: list[str] = []
            bad: list[str] = []
            while len(found) + len(bad) < 3:
                chunk = await asyncio.wait_for(reader.read_chunk(), 60)
                assert chunk.salvage is not None
                salvaged = chunk.salvage()
                found += salvaged.good["message"].to_list()
                bad += [each.code for each in salvaged.bad]
            return found, bad
        finally:
            await reader.aclose()

    assert asyncio.run(ask()) == (["one", "two"], ["E0504"])


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"timezone": "Mars/Olympus"}, "not a time zone"),
        ({"listen": []}, "names no address"),
        ({"listen": "udp://:1", "tls": {"certificate": "a", "key": "b"}}, "'tls' is for"),
        ({"format": "json"}, "extra"),
    ],
)
def test_wrong_options_are_named(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        SyslogSource.Config.model_validate(config)
