"""The `http` destination: rows as the bodies of requests, a webhook.

Always true: rows go out in order, one request after the other; a batch that the server refuses
(400, 409, 413, 422) is halved until the refused rows are found, if rows may be left out.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import urlsplit

import httpx
import polars as pl

from dataflare.connectors.http.client import HttpClient, excerpt, public_url
from dataflare.connectors.http.config import HttpDestinationConfig
from dataflare.connectors.http.epochs import EpochCommitter, EpochWriter
from dataflare.errors import DataError, SystemError_
from dataflare.formats.text_write import NdjsonText, python_row
from dataflare.model.batch import SharedDataBatch
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import (
    Committable,
    Committer,
    Delivery,
    DestinationCapabilities,
    DestinationConnector,
    NoCommitter,
    RefusedRow,
    Writer,
    WriteStats,
)
from dataflare.sdk.max_errors import end_search

_ABOUT_ROWS = (400, 409, 413, 422)


class HttpDestination(DestinationConnector):
    """A webhook."""

    type = "http"
    Config = HttpDestinationConfig
    summary = "Sends rows to a webhook, as JSON."
    example = """\
hook:
  type: http
  inputs: [orders]
  config:
    url: https://hooks.example.com/orders
    batch_size: 50
    auth: {type: header, name: X-Api-Key, value: "${secret:HOOK_KEY}"}
"""
    sleep: Callable[[float], Awaitable[None]] = staticmethod(asyncio.sleep)

    @property
    def _has_keys(self) -> bool:
        return bool(self.config.guarantee == "effectively_once")

    def capabilities(self) -> DestinationCapabilities:
        if self._has_keys:
            reason = "requests are sent at checkpoints, and again after a crash with the same key"
            return DestinationCapabilities(Delivery.IDEMPOTENT, reason, at_commit=True)
        return DestinationCapabilities(
            Delivery.REPEATING,
            "requests are sent immediately, and again after a crash",
            hands_back=True,
        )

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        if self._has_keys:
            return EpochWriter(context)
        client = HttpClient(self.config, context.step, sleep=self.sleep)
        return WebhookWriter(client, self.config, context)

    async def committer(self, context: DestinationContext) -> Committer:
        if not self._has_keys:
            return NoCommitter()
        client = HttpClient(self.config, context.step, sleep=self.sleep)
        sender = Requests(client, self.config, context)
        return EpochCommitter(context, self.config.batch_size, sender.send_all_of, client.aclose)

    async def inspect(self) -> Mapping[str, str]:
        """For `check`: the server. No request is sent, because a webhook acts on each request."""
        return {
            "server": urlsplit(self.config.url).netloc,
            "asked": "no: a request would have an effect",
        }


class Requests:
    """Makes and sends single requests."""

    def __init__(
        self, client: HttpClient, config: HttpDestinationConfig, context: DestinationContext
    ) -> None:
        self._client, self._config, self._context = client, config, context

    async def send_all_of(self, rows: pl.DataFrame, key: str) -> None:
        """Send rows as one request. Raises DataError (E0510) if the server refuses some."""
        answer = await self.ask(rows, key)
        if answer.status_code >= 300:
            raise self.refusal(rows, answer)

    async def ask(self, rows: pl.DataFrame, key: str) -> httpx.Response:
        """The answer: success, or a refusal of rows."""
        config = self._config
        content, kind = self._body(rows)
        headers = {"Content-Type": kind, config.key_header: key}
        answer = await self._client.ask(config.method, config.url, content=content, headers=headers)
        if answer.status_code >= 300 and answer.status_code not in _ABOUT_ROWS:
            raise _request_error(answer, config.url)
        return answer

    def _body(self, rows: pl.DataFrame) -> tuple[bytes, str]:
        lines = NdjsonText().encode(rows)
        if self._config.format == "ndjson":
            return lines, "application/x-ndjson"
        if self._config.batch_size == 1:
            return lines.rstrip(b"\n"), "application/json"
        return b"[" + lines.rstrip(b"\n").replace(b"\n", b",") + b"]", "application/json"

    def refusal(self, rows: pl.DataFrame, answer: httpx.Response) -> DataError:
        subject = "a row" if rows.height == 1 else f"a batch of {rows.height} rows"
        text = ", ".join(f"{name}={value!r}" for name, value in python_row(rows).items())
        return DataError(
            f"{public_url(self._config.url)} refuses {subject}: {_why(answer, self._config.url)}",
            code="E0510",
            step=self._context.step,
            notes=[f"{'the' if rows.height == 1 else 'the first'} row: {text[:400]}"],
            help="fix the data, or set error_handling: {on_error: dead_letter}",
        )


class WebhookWriter(Writer):
    """Sends batches when they are full, and the remaining rows at each checkpoint. A repeated
    request has the same key, so that a server that checks keys accepts its rows once."""

    resumes = True
    float_losses = ("nan", "infinite")
    rows_out: int
    system_calls: int

    def __init__(
        self, client: HttpClient, config: HttpDestinationConfig, context: DestinationContext
    ) -> None:
        self._client, self._config, self._context = client, config, context
        self._sender = Requests(client, config, context)
        self._frames: list[pl.DataFrame] = []
        self._rows = 0
        self._last_batch: SharedDataBatch | None = None
        self._requests: deque[tuple[pl.DataFrame, str]] = deque()
        self._refused: list[RefusedRow] = []
        self.rows_out = self.system_calls = 0

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        if batch is not self._last_batch:
            self._frames.append(batch.frame.select(self._context.schema.names))
            self._rows += batch.num_rows
            self._last_batch = batch
        if self._rows >= self._config.batch_size:
            self._cut(whole_only=True)
        await self._send_all()
        self._last_batch = None
        return WriteStats(batch.num_rows, batch.num_bytes)

    async def flush(self) -> None:
        self._cut(whole_only=False)
        await self._send_all()

    async def settle(self) -> Sequence[RefusedRow]:
        await self.flush()
        refused, self._refused = self._refused, []
        return refused

    def hand_back(self) -> Sequence[pl.DataFrame]:
        frames = [*(rows for rows, _ in self._requests), *self._frames]
        self._requests.clear()
        self._frames, self._rows, self._last_batch = [], 0, None
        return frames

    def _cut(self, *, whole_only: bool) -> None:
        """Make requests from the buffered rows."""
        if not self._rows:
            return
        size = self._config.batch_size
        frame = pl.concat(self._frames)
        whole = frame.height - frame.height % size if whole_only else frame.height
        rest = frame.slice(whole)
        self._requests.extend((part, _new_key()) for part in frame.head(whole).iter_slices(size))
        self._frames, self._rows = [rest] if rest.height else [], rest.height

    async def _send_all(self) -> None:
        """Send the requests in order. A failed request stays the first, with its key."""
        while self._requests:
            rows, key = self._requests[0]
            halves = await self._send(rows, key)
            self._requests.popleft()
            self.progress += 1
            self._requests.extendleft((half, _new_key()) for half in reversed(halves))

    async def _send(self, rows: pl.DataFrame, key: str) -> Sequence[pl.DataFrame]:
        """Send a request. If the server refuses some of its rows, return the halves to send
        instead."""
        config = self._config
        self.system_calls += 1
        answer = await self._sender.ask(rows, key)
        if answer.status_code < 300:
            self.rows_out += rows.height
            return ()
        if not self._context.sift:
            raise self._sender.refusal(rows, answer)
        if rows.height == 1:
            why = _why(answer, config.url)
            self._refused.append(RefusedRow(python_row(rows), "E0510", why))
            end_search(self._context.step, len(self._refused), self._context.refused_max)
            return ()
        half = rows.height // 2
        return rows.head(half), rows.slice(half)

    async def aclose(self) -> None:
        await self._client.aclose()


def _new_key() -> str:
    return str(uuid.uuid4())


def _why(answer: httpx.Response, url: str) -> str:
    text = excerpt(answer)
    status = f"{answer.status_code} {answer.reason_phrase}".rstrip()
    return f"{status}: {text}" if text else status


def _request_error(answer: httpx.Response, url: str) -> SystemError_:
    return SystemError_(
        f"{public_url(url)} answered {_why(answer, url)}",
        code="E0604" if answer.status_code in (404, 410) else "E0611",
        help="look at 'url' and 'method'",
    )
