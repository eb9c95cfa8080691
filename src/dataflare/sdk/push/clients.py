"""Stay connected to a server that sends.

Always true: a connection is read further when its messages are on disk. A connection that breaks is made again, after
a wait that grows; a server that cannot be reached for `timeout`, or that refuses for a reason that does not pass, is
an error.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from abc import abstractmethod

import aiohttp

from dataflare.errors import DataFlareError, InternalError, Retry
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.push.addresses import ended
from dataflare.sdk.push.client_config import ClientConfig
from dataflare.sdk.push.client_errors import ClientErrors
from dataflare.sdk.push.inbox import Inbox
from dataflare.sdk.push.reader import Listener
from dataflare.sdk.threads import in_thread

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 10.0
_CLOSING_S = 2.0
BROKEN = "the connection was made again: the server may not repeat what it sent in between"


class ClientListener(ClientErrors, Listener):
    """again_s: how long it waits before it connects again; grows while that fails."""

    reconnect_warning: str | None = BROKEN

    def __init__(self, config: ClientConfig, context: ConnectorContext, url: str) -> None:
        self.config, self.context, self.url = config, context, url
        self._task: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._well_at = 0.0
        self.again_s = _FIRST_WAIT_S

    async def start(self, inbox: Inbox) -> None:
        tls = (
            None
            if self.config.tls is None
            else await in_thread(self.config.tls.context, self.context)
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls if tls is not None else True, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, connect=self.config.timeout, sock_read=None),
            headers=self.config.all_headers,
        )
        self._well_at = time.monotonic()
        self._task = asyncio.ensure_future(self._stay(inbox))

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await ended({self._task}, _CLOSING_S)
        if self._session is not None:
            await self._session.close()

    @abstractmethod
    async def take(self, session: aiohttp.ClientSession, inbox: Inbox) -> bool:
        """Connect, and put what comes into the inbox until the connection ends. Whether nothing will ever follow.
        Raises what aiohttp raises, and DataFlareError."""

    def is_well(self) -> None:
        """The server took the connection."""
        self._well_at = time.monotonic()

    def has_come(self) -> None:
        """Something came: the next connection need not wait long."""
        self.again_s = _FIRST_WAIT_S

    async def _stay(self, inbox: Inbox) -> None:
        assert self._session is not None
        while True:
            error: DataFlareError | None = None
            connected_before = self._well_at
            try:
                if await self.take(self._session, inbox):
                    inbox.end()
                    return
            except DataFlareError as refused:
                error = refused
            except (aiohttp.ClientError, ssl.SSLError, OSError, TimeoutError) as broken:
                error = self.translated(broken)
            except Exception as other:
                error = InternalError(f"{self.url} cannot be read: {other!r}")
            was_connected = self._well_at != connected_before
            if error is not None and error.retry is not Retry.LATER:
                inbox.fail(error)
                return
            if was_connected:
                self._well_at = time.monotonic()
                if self.reconnect_warning is not None:
                    inbox.warn(self.reconnect_warning)
            elif error is not None and time.monotonic() - self._well_at > self.config.timeout:
                inbox.fail(error)
                return
            await asyncio.sleep(self.again_s)
            self.again_s = min(self.again_s * 2, _LONGEST_WAIT_S)
