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

import polars as pl

from dataflare.connectors.http.client import HttpClient
from dataflare.connectors.http.config import HttpDestinationConfig
from dataflare.connectors.http.epochs import EpochCommitter, EpochWriter
from dataflare.connectors.http.sending import Request, Requests
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

_COMMITTED_HELP = (
    "set error_handling: {on_error: dead_letter} (or skip), and run again with --accept-changes: the run goes on without "
    "the refused rows. They belong to a checkpoint, so a change of the data does not reach them; --fresh starts over"
)


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
            return DestinationCapabilities(
                Delivery.IDEMPOTENT, reason, at_commit=True, refuses_at_commit=True
            )
        return DestinationCapabilities(
            Delivery.REPEATING,
            "requests are sent immediately, and again after a crash",
            hands_back=True,
        )

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        if self._has_keys:
            return EpochWriter(context)
        client = HttpClient(
            self.config, context.step, sleep=self.sleep, body_max=self.context.answer_bytes_max
        )
        return WebhookWriter(client, self.config, context)

    async def committer(self, context: DestinationContext) -> Committer:
        if not self._has_keys:
            return NoCommitter()
        client = HttpClient(
            self.config, context.step, sleep=self.sleep, body_max=self.context.answer_bytes_max
        )
        sender = Requests(client, self.config, context, _COMMITTED_HELP)

        async def send(request: Request) -> None:
            while request.next is not None:
                await sender.send(request)

        return EpochCommitter(context, self.config.batch_size, send, client.aclose)

    async def inspect(self) -> Mapping[str, str]:
        """For `check`: the server. No request is sent, because a webhook acts on each request."""
        return {
            "server": urlsplit(self.config.url).netloc,
            "asked": "no: a request would have an effect",
        }


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
        self._requests: deque[Request] = deque()
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
        for request in self._requests:
            self._refused += request.refused
        frames = [*(request.left for request in self._requests), *self._frames]
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
        self._requests.extend(
            Request(part, str(uuid.uuid4())) for part in frame.head(whole).iter_slices(size)
        )
        self._frames, self._rows = [rest] if rest.height else [], rest.height

    async def _send_all(self) -> None:
        """Send the requests in order. A failed request stays the first, with its key."""
        while self._requests:
            request = self._requests[0]
            while (part := request.next) is not None:
                self.system_calls += 1
                if await self._sender.send(request):
                    self.rows_out += part[0].height
                self.progress += 1
                refused = len(self._refused) + request.refused_rows
                end_search(self._context.step, refused, self._context.refused_max)
            self._refused += request.refused
            self._requests.popleft()

    async def aclose(self) -> None:
        await self._client.aclose()
