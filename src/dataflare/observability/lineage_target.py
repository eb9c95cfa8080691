"""Where events of OpenLineage go: to a receiver over HTTP, into a file, or to standard error.

Always true: a receiver that is away, or slow, never holds a run up and never fails it. Events wait in their order on a thread
of their own, and are tried again while the run lives; what could not be sent is told once.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from msgspec import Struct

NAMESPACE = "dataflare"
_ENDPOINT = "api/v1/lineage"
_TIMEOUT_S = 5.0
_AGAIN_S = 2.0
_LAST_S = 5.0
_WAITING_MAX = 100

Event = Mapping[str, Any]


class LineageTarget(Struct, frozen=True):
    """Exactly one of url and path is set, or none for standard error. key: of the receiver."""

    url: str | None = None
    path: str | None = None
    namespace: str = NAMESPACE
    key: str | None = None

    @property
    def shown(self) -> str:
        """Without a password."""
        if self.url is not None:
            parts = urlsplit(self.url)
            return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
        return self.path or "standard error"


def lineage_target(
    text: str | None, environ: Mapping[str, str] = os.environ
) -> LineageTarget | None:
    """text: of the command line: `http://host:5000`, a file such as `events.ndjson` or `file:///var/log/events.ndjson`, or
    `console`; it goes before the variables of OpenLineage. None: no events are sent. Raises ValueError for a URL of another
    kind."""
    namespace = environ.get("OPENLINEAGE_NAMESPACE") or NAMESPACE
    key = environ.get("OPENLINEAGE_API_KEY") or None
    if text is None:
        if environ.get("OPENLINEAGE_DISABLED", "").lower() == "true":
            return None
        text = environ.get("OPENLINEAGE_URL")
        if not text:
            return None
    if text == "console":
        return LineageTarget(namespace=namespace)
    parts = urlsplit(text)
    if parts.scheme in ("http", "https"):
        if not parts.hostname:
            raise ValueError(text)
        if parts.path.strip("/"):
            return LineageTarget(url=text, namespace=namespace, key=key)
        endpoint = (environ.get("OPENLINEAGE_ENDPOINT") or _ENDPOINT).strip("/")
        url = parts._replace(path=f"/{endpoint}").geturl()
        return LineageTarget(url=url, namespace=namespace, key=key)
    if parts.scheme == "file":
        return LineageTarget(path=unquote(parts.path), namespace=namespace)
    if parts.scheme or not text:
        raise ValueError(text)
    return LineageTarget(path=text, namespace=namespace)


class LineageSender:
    """said: told, on another thread, the first time that an event cannot be sent, and at the end what was not."""

    def __init__(self, target: LineageTarget, said: Callable[[str], None]) -> None:
        self._target, self._said = target, said
        self._waiting: deque[Event] = deque()
        self._ready = threading.Condition()
        self._ends = self._has_told = False
        self._refused = 0
        self._thread = threading.Thread(target=self._work, daemon=True, name="openlineage")
        self._thread.start()

    def send(self, event: Event) -> None:
        """Give an event to the thread. A RUNNING event replaces one that still waits: it has all of it."""
        with self._ready:
            if event.get("eventType") == "RUNNING" and self._waiting:
                if self._waiting[-1].get("eventType") == "RUNNING":
                    self._waiting.pop()
                elif len(self._waiting) >= _WAITING_MAX:
                    return
            self._waiting.append(event)
            self._ready.notify()

    def close(self) -> None:
        """Wait a moment for what is left."""
        with self._ready:
            self._ends = True
            self._ready.notify()
        self._thread.join(_LAST_S)
        left = len(self._waiting) + self._refused
        if left:
            events = "1 event" if left == 1 else f"{left} events"
            self._said(f"{events} of OpenLineage not sent to {self._target.shown}")

    def _work(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._waiting or self._ends)
                if not self._waiting:
                    return
                event = self._waiting[0]
            problem, is_worth_retrying = self._sent(event)
            with self._ready:
                if problem is None or not is_worth_retrying:
                    self._waiting.popleft()
                    self._refused += problem is not None
                elif self._ends:
                    return
                else:
                    self._ready.wait_for(lambda: self._ends, _AGAIN_S)
            if problem is not None and not self._has_told:
                self._has_told = True
                self._said(f"OpenLineage: {self._target.shown}: {problem}")

    def _sent(self, event: Event) -> tuple[str | None, bool]:
        """What went wrong, and whether to try again."""
        text = json.dumps(event, separators=(",", ":"))
        try:
            if self._target.url is not None:
                self._post(self._target.url, text.encode())
            elif self._target.path is not None:
                with open(self._target.path, "a", encoding="utf-8") as file:
                    file.write(text + "\n")
            else:
                sys.stderr.write(text + "\n")
                sys.stderr.flush()
        except HTTPError as error:
            error.close()
            return f"it answers {error.code}", error.code >= 500 or error.code in (408, 429)
        except (URLError, OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            return str(reason), self._target.url is not None
        return None, False

    def _post(self, url: str, body: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        if self._target.key is not None:
            headers["Authorization"] = f"Bearer {self._target.key}"
        with urlopen(Request(url, body, headers, method="POST"), timeout=_TIMEOUT_S) as answer:
            answer.read()


@contextlib.contextmanager
def sending(target: LineageTarget, said: Callable[[str], None]) -> Iterator[LineageSender]:
    """A sender until the end of the `with`."""
    sender = LineageSender(target, said)
    try:
        yield sender
    finally:
        sender.close()
