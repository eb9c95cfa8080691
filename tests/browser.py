"""Chromium without a window, driven by its DevTools protocol over a pair of pipes.

The protocol: https://chromedevtools.github.io/devtools-protocol/. A pipe needs no port and no
WebSocket library: each message is JSON, ended by a byte of zero.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import choice

NAMES = ("chromium", "chromium-browser", "google-chrome")
ANSWER_S = 60.0


def program() -> str:
    """Chromium of this machine. As root on Debian it is installed. Else the test is skipped, or
    fails where `CI` is true."""
    found = _find() or (_find() if choice.installed("chromium") else None)
    if found is None:
        needed = "the rendered pages need a browser: apt-get install chromium"
        pytest.fail(needed) if os.environ.get("CI") == "true" else pytest.skip(needed)
    return found


def _find() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One process with one tab. Events that arrive are kept in `events` until `take_events`."""

    def __init__(self, profile: Path) -> None:
        path = program()
        to_child, self._write = _pipe()
        self._read, from_child = _pipe()
        arguments = [
            path, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}",
            "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-extensions", "--hide-scrollbars",
        ]  # fmt: skip
        self._pid = os.posix_spawn(
            path,
            arguments,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, to_child, 3),
                (os.POSIX_SPAWN_DUP2, from_child, 4),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, str(profile / "stderr"), os.O_WRONLY | os.O_CREAT, 0o600),
            ],
            setsid=True,
        )
        os.close(to_child)
        os.close(from_child)
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self.events.append(answer)
        raise AssertionError("the browser has closed its pipe")

    def open(self, url: str) -> None:
        """Go to `url` and wait until the page and its parts are loaded."""
        self.call("Page.navigate", url=url)
        if any(event.get("method") == "Page.loadEventFired" for event in self.events):
            return
        for event in self._messages():
            self.events.append(event)
            if event.get("method") == "Page.loadEventFired":
                return

    def width(self, pixels: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=pixels, height=900, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def value(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def take_events(self) -> list[dict[str, Any]]:
        taken, self.events = self.events, []
        return taken

    def close(self) -> None:
        """End the process and its children: they are one session, so one process group."""
        os.close(self._write)
        os.close(self._read)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def _messages(self) -> Iterator[dict[str, Any]]:
        until = time.monotonic() + ANSWER_S
        while True:
            message, ended, rest = self._rest.partition(b"\0")
            if ended:
                self._rest = rest
                yield json.loads(message)
                continue
            waiting = select.poll()  # takes files of any number, as select does not
            waiting.register(self._read, select.POLLIN)
            ready = waiting.poll(1_000 * max(0.0, until - time.monotonic()))
            assert ready, f"the browser gave no answer in {ANSWER_S:g} s"
            piece = os.read(self._read, 1 << 20)
            if not piece:
                return
            self._rest += piece


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are above the numbers that the browser expects its own at."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10))
        os.close(end)
    return ends[0], ends[1]
