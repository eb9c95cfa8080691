"""Send entries to a service that takes many in a request, and tells for each whether it was taken.

Always true: the entries of one key are sent in their order, by requests that follow each other. Entries that were not taken
for now are sent again without the others, so an entry may come behind a later one of its request. It is an error when no entry
is taken for `timeout` seconds. An entry that the service refuses for what it is becomes a refused row.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.sdk.aws.client import told_by_service
from dataflare.sdk.brokers.rows import MessageMaker
from dataflare.sdk.brokers.writing import DirectWriter
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.in_flight import limit_of
from dataflare.sdk.threads import in_thread

_WAIT_S, _WAIT_MAX_S = 0.05, 2.0


class Entry(Struct, frozen=True):
    """A part of a request. key: entries with the same one keep their order. size: how many bytes it counts."""

    key: bytes
    size: int
    value: dict[str, Any]


class NotTaken(Struct, frozen=True):
    """What the service told of an entry that it did not take. at: which of the request. passes: whether it is worth sending
    again."""

    at: int
    code: str
    text: str
    passes: bool

    @property
    def why(self) -> str:
        return f"{self.code}: {self.text}" if self.text else self.code


class RequestWriter(DirectWriter):
    """Sends requests, up to `concurrency` at a time."""

    entries_max: int
    """How many entries a request has at most."""
    busy_help: str
    """What helps where the service takes no more."""
    names: str
    """The options that name the place."""

    def __init__(
        self,
        maker: MessageMaker,
        context: DestinationContext,
        place: str,
        *,
        request_bytes: int,
        timeout: float,
        concurrency: int,
    ) -> None:
        super().__init__(maker, context, place)
        self._lanes = concurrency
        # A service bounds what one queue or one stream takes.
        self._limit = limit_of(context.step, place, concurrency)
        self._request_bytes, self._timeout = request_bytes, timeout

    @abstractmethod
    def entries(self, messages: pl.DataFrame) -> Iterator[Entry]:
        """The entries of messages, in their order."""

    @abstractmethod
    def request(self, values: Sequence[dict[str, Any]]) -> Sequence[NotTaken]:
        """Send the values of entries. On a thread."""

    @abstractmethod
    def close(self) -> None:
        """End the client. On a thread."""

    async def send(self, messages: pl.DataFrame) -> Mapping[int, str]:
        lanes: list[list[tuple[int, Entry]]] = [[] for _ in range(self._lanes)]
        for number, entry in enumerate(self.entries(messages)):
            lanes[zlib.crc32(entry.key) % self._lanes].append((number, entry))
        refused: dict[int, str] = {}
        sent = [self._send_lane(lane, refused) for lane in lanes if lane]
        for outcome in await asyncio.gather(*sent, return_exceptions=True):
            if outcome is not None:
                raise outcome
        return refused

    async def _send_lane(
        self, entries: Sequence[tuple[int, Entry]], refused: dict[int, str]
    ) -> None:
        """Send entries in their order, until one is refused where none may be. refused: what the service refuses is added,
        by number."""
        part: list[tuple[int, Entry]] = []
        room = self._request_bytes
        for numbered in entries:
            size = numbered[1].size
            if part and (len(part) == self.entries_max or size > room):
                await self._send(part, refused)
                part, room = [], self._request_bytes
            if refused and not self._context.sift:
                return
            part.append(numbered)
            room -= size
        await self._send(part, refused)

    async def _send(self, part: Sequence[tuple[int, Entry]], refused: dict[int, str]) -> None:
        """Send a request, and again what was not taken for now. Raises when nothing was taken for some time."""
        wait_s, end = _WAIT_S, time.monotonic() + self._timeout
        while True:
            async with self._limit.turn(len(part)) as turn:
                failed = await in_thread(self.request, [entry.value for _, entry in part])
                busy = [each for each in failed if each.passes]
                turn.failed = bool(busy)
            for each in failed:
                if not each.passes:
                    self._raise_of_service(each)
                    refused[part[each.at][0]] = each.why
            if not busy:
                return
            if len(busy) < len(part):
                wait_s, end = _WAIT_S, time.monotonic() + self._timeout
            elif time.monotonic() > end:
                raise self._busy(busy[0].why)
            part = [part[each.at] for each in busy]
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _WAIT_MAX_S)

    def _raise_of_service(self, each: NotTaken) -> None:
        """Raise the error of a service that would refuse any entry."""
        error = told_by_service(each.code, each.why, self._place, self.names)
        if error is not None:
            raise error

    def _busy(self, why: str) -> DataFlareError:
        return SystemError_(
            f"{self._place} takes no more now: {why}",
            code="E0607",
            step=self._context.step,
            retry=Retry.LATER,
            help=self.busy_help,
        )

    async def aclose(self) -> None:
        await in_thread(self.close)
