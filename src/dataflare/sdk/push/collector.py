"""Collect messages that come one by one, and put what has come into the log together.

Always true: messages keep their order; at most `messages_max` messages and about `bytes_max` bytes wait.
"""

from __future__ import annotations

import asyncio

from dataflare.errors import DataFlareError
from dataflare.sdk.push.blocks import Message
from dataflare.sdk.push.inbox import Inbox


class Collector:
    """Of one listener or connection."""

    def __init__(self, inbox: Inbox, *, messages_max: int, bytes_max: int) -> None:
        self._inbox, self._messages_max, self._bytes_max = inbox, messages_max, bytes_max
        self._waiting: list[Message] = []
        self._num_bytes, self._busy = 0, False
        self._came, self._emptied = asyncio.Event(), asyncio.Event()
        self._failure: DataFlareError | None = None
        self._putting = asyncio.ensure_future(self._put())

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= self._messages_max or self._num_bytes >= self._bytes_max

    def add(self, message: Message) -> None:
        self._waiting.append(message)
        self._num_bytes += len(message[0])
        self._came.set()

    async def room(self) -> None:
        """Wait until it is not full. Raises what the log raised."""
        while self.is_full:
            await self._one_put()

    async def drained(self) -> None:
        """Wait until all that was added is on disk. Raises what the log raised."""
        while self._waiting or self._busy:
            await self._one_put()

    async def aclose(self) -> None:
        self._putting.cancel()
        await asyncio.gather(self._putting, return_exceptions=True)

    async def _one_put(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._emptied.clear()
        await self._emptied.wait()
        if self._failure is not None:
            raise self._failure

    async def _put(self) -> None:
        while True:
            await self._came.wait()
            self._busy = True
            messages, self._waiting = self._waiting, []
            num_bytes, self._num_bytes = self._num_bytes, 0
            self._came.clear()
            try:
                await self._inbox.put(messages, num_bytes)
            except DataFlareError as error:
                self._failure = error
                return
            finally:
                self._busy = False
                self._emptied.set()
