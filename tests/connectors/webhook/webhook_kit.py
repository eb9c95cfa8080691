"""A webhook in this process or in one that is killed, and a sender that sends again until it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from dataflare.connectors.webhook.source import WebhookSource
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import ChunkReader

COLUMNS = Schema.of({"n": "int64", "text": "string"})


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def described(folder: Path, schema: Schema | None = COLUMNS, **config: Any) -> WebhookSource:
    given = {"listen": f"127.0.0.1:{free_port()}", **config}
    context = ConnectorContext("inbox", folder, folder=folder / "state")
    made = WebhookSource(WebhookSource.Config.model_validate(given), context)
    made.contract = schema
    return made


@contextlib.asynccontextmanager
async def taking(source: WebhookSource) -> AsyncIterator[tuple[ChunkReader, httpx.AsyncClient]]:
    """A reader of it, and a client whose addresses begin at the webhook."""
    (split,) = await source.splits()
    reader = await source.open(split, None)
    assert isinstance(reader, ChunkReader)
    scheme = "https" if source.config.tls else "http"
    try:
        async with httpx.AsyncClient(
            base_url=f"{scheme}://{source.config.listen}", trust_env=False
        ) as client:
            yield reader, client
    finally:
        await reader.aclose()


async def rows_of(reader: ChunkReader) -> list[dict[str, Any]]:
    chunk = await asyncio.wait_for(reader.read_chunk(), 30)
    return chunk.scan().collect().to_dicts()


WORKFLOW = """\
name: moving
settings:
  checkpoint: {interval: 50ms}
  restart: {attempts: 1000, delay: 50ms, max_delay: 300ms}
sources:
  given:
    type: webhook
    config: {listen: "127.0.0.1:PORT", path: /rows, rows: lines, metadata: [offset]}
    schema: {n: int64, text: string}
destinations:
  out: {type: sqlite, inputs: [given], config: {path: out.db, table: rows}}
"""


class Moving:
    """A run of a webhook to a database, in processes of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.file = folder / "moving.yaml"
        self.file.write_text(WORKFLOW.replace("PORT", str(self.port)))

    def start(self, crash_at: str = "", *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "dataflare", "run", "--quiet", *more, str(self.file)],
            env={**os.environ, "DATAFLARE_CRASH_AT": crash_at},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def dies(self, crash_at: str) -> None:
        process = self.start(crash_at)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, said

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        """A run that is stopped at the end, behind a checkpoint."""
        process = self.start()
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=120)
            assert process.returncode == 130, said

    def rows(self) -> list[tuple[int, str, int]]:
        if not (self.folder / "out.db").exists():
            return []
        with contextlib.closing(sqlite3.connect(self.folder / "out.db", timeout=30)) as database:
            try:
                return database.execute(
                    "select n, text, _offset from rows order by _offset"
                ).fetchall()
            except sqlite3.OperationalError:
                return []  # no row has come yet, so there is no table


class Sender(threading.Thread):
    """Sends numbered rows, some in each request, and each request again until it is answered with success."""

    def __init__(self, port: int, requests: int, rows: int = 3) -> None:
        super().__init__(daemon=True)
        self.url = f"http://127.0.0.1:{port}/rows"
        self.requests, self.rows = requests, rows
        self.taken = 0
        self.enough = threading.Event()

    def run(self) -> None:
        with httpx.Client(trust_env=False, timeout=10) as client:
            while self.taken < self.requests and not self.enough.is_set():
                first = self.taken * self.rows
                body = b"\n".join(line(n) for n in range(first, first + self.rows))
                try:
                    answer = client.post(self.url, content=body)
                except httpx.HTTPError:
                    self.enough.wait(0.05)  # it is down, or died in the middle of the request
                    continue
                assert answer.status_code in (202, 503), answer.text
                self.taken += answer.status_code == 202


def line(n: int) -> bytes:
    return json.dumps({"n": n, "text": f"row {n}"}).encode()


def headers_of(given: Mapping[str, str]) -> dict[str, str]:
    return {"content-type": "application/json", **given}
