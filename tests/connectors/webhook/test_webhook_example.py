"""The example with a webhook, as its comment says."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import httpx
from webhook_kit import free_port

EXAMPLE = Path(__file__).parents[3] / "examples" / "webhook" / "orders.yaml"


def test_orders_are_in_the_table_once(tmp_path: Path) -> None:
    folder, port = tmp_path / "webhook", free_port()
    folder.mkdir()
    shutil.copy(EXAMPLE, folder)
    bodies = ['{"id": 1, "status": "new"}', '{"id": 2, "status": "new"}', '{"id": "x"}',
              '{"id": 1, "status": "new"}', '{"id": 1, "status": "paid"}']  # fmt: skip
    for stop in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "-m", "dataflare", "run", "--quiet", str(folder / EXAMPLE.name)],
            env={**os.environ, "PORT": str(port)},
        )
        for body in bodies:
            sent(f"http://127.0.0.1:{port}/orders", body)
        process.send_signal(stop)
        process.wait(60)
    with contextlib.closing(sqlite3.connect(tmp_path / "out" / "webhook.sqlite")) as database:
        rows = database.execute("select id, status from orders order by 1, 2").fetchall()
    assert rows == [(1, "new"), (1, "paid"), (2, "new")]


def sent(url: str, body: str) -> None:
    """Send until it is taken."""
    with httpx.Client(trust_env=False, timeout=60) as client:
        while True:
            try:
                assert client.post(url, content=body).status_code == 202
                return
            except httpx.ConnectError:
                threading.Event().wait(0.05)  # the run has not started yet
