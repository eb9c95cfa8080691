"""Send entries to a service that takes many in a request, and tells for each whether it was taken.

Always true: the entries of one key are sent in their order, by requests that follow each other. Entries that were not taken
are sent again without those that were, so an entry may come behind a later one of its request. It is an error when no entry
is taken for `timeout` seconds.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.sdk.brokers.rows import MessageMaker
from dataflare.sdk.brokers.writing import DirectWriter
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.threads import in_thread

_LANES = 4
"""How many requests are made at a time."""
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
    why: str
    passes: bool


class RequestWriter(DirectWriter):
    """Sends requests, several at a time."""

    entries_max: int
    """How many entries a request has at most."""
    busy_help: str
    """What helps where the service takes no more."""

    def __init__(
        self,
        maker: MessageMaker,
        context: DestinationContext,
        place: str,
        *,
        request_bytes: int,
        timeout: float,
    ) -> None:
        super().__init__(maker, context, place)
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

    async def send(self, messages: pl.DataFrame) -> None:
        lanes: list[list[Entry]] = [[] for _ in range(_LANES)]
        for entry in self.entries(messages):
            lanes[zlib.crc32(entry.key) % _LANES].append(entry)
        sent = [in_thread(self._send_lane, lane) for lane in lanes if lane]
        for outcome in await asyncio.gather(*sent, return_exceptions=True):
            if outcome is not None:
                raise outcome

    def _send_lane(self, entries: Sequence[Entry]) -> None:
        """Send entries in their order. On a thread."""
        values: list[dict[str, Any]] = []
        room = self._request_bytes
        for entry in entries:
            if values and (len(values) == self.entries_max or entry.size > room):
                self._send(values)
                values, room = [], self._request_bytes
            values.append(entry.value)
            room -= entry.size
        self._send(values)

    def _send(self, values: list[dict[str, Any]]) -> None:
        """Send a request, and again what was not taken. Raises when nothing was taken for some time."""
        wait_s, end = _WAIT_S, time.monotonic() + self._timeout
        while failed := self.request(values):
            why = failed[0].why
            if not all(each.passes for each in failed):
                raise self._not_taken(next(each.why for each in failed if not each.passes))
            if len(failed) < len(values):
                wait_s, end = _WAIT_S, time.monotonic() + self._timeout
            elif time.monotonic() > end:
                raise self._busy(why)
            values = [values[each.at] for each in failed]
            time.sleep(wait_s)
            wait_s = min(wait_s * 2, _WAIT_MAX_S)

    def _not_taken(self, why: str) -> DataFlareError:
        return SystemError_(
            f"{self._place} refuses a message: {why}",
            code="E0600",
            step=self._context.step,
            help="fix the cause that the service reports, and run again",
        )

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
