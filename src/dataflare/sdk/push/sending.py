"""Send messages over a connection that stays open, and connect again when it breaks.

Always true: messages are sent in their order; one that the receiver has not confirmed when the connection breaks is sent
again over the next one, so it may come twice and is not lost.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence

import polars as pl

from dataflare.errors import DataFlareError, Retry
from dataflare.sdk.brokers.rows import MessageMaker
from dataflare.sdk.brokers.writing import DirectWriter
from dataflare.sdk.context import DestinationContext

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0


class Link(ABC):
    """A receiver. timeout: how long it may be away, and how long it may take for a confirmation."""

    timeout: float

    @abstractmethod
    async def connect(self) -> None:
        """A new connection. Raises DataFlareError, with Retry.LATER where another attempt may help."""

    @abstractmethod
    async def deliver(self, messages: Sequence[bytes]) -> int:
        """Send messages, and wait until the receiver has confirmed all of them. Gives how many it has confirmed; fewer
        than all only where the connection broke."""

    @abstractmethod
    def broken(self) -> DataFlareError:
        """What broke the connection in the last `deliver`."""

    @abstractmethod
    async def aclose(self) -> None:
        """End the connection. What connects again calls it first."""


class LinkWriter(DirectWriter):
    """Sends to a link."""

    def __init__(
        self, maker: MessageMaker, context: DestinationContext, place: str, link: Link
    ) -> None:
        super().__init__(maker, context, place)
        self._link, self._connected = link, False

    async def send(self, messages: pl.DataFrame) -> None:
        left: Sequence[bytes] = messages["value"].to_list()
        loop, wait_s = asyncio.get_running_loop(), _FIRST_WAIT_S
        end = loop.time() + self._link.timeout
        while left:
            try:
                if not self._connected:
                    await self._link.connect()
                    self._connected = True
                confirmed = await self._link.deliver(left)
                left = left[confirmed:]
                if not left:
                    return
                if confirmed:
                    wait_s, end = _FIRST_WAIT_S, loop.time() + self._link.timeout
                error = self._link.broken()
            except DataFlareError as refused:
                error = refused
            self._connected = False
            await self._link.aclose()
            if error.retry is not Retry.LATER or loop.time() > end:
                raise error
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    async def aclose(self) -> None:
        await self._link.aclose()
