"""Documents in bulk requests: smaller ones and slower ones where the server asks for it.

Always true: one request at a time, and what a server put off is sent again before what follows; a document that a
server refuses is told with the server's reason, and the others of its request are written.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec import Struct

from dataflare.connectors.elasticsearch.client import READ_ONLY, Answer, Client, reason_of
from dataflare.connectors.elasticsearch.config import ElasticsearchDestinationConfig
from dataflare.connectors.elasticsearch.documents import Documents

_TOO_LARGE = 413
_BUSY = (429, 502, 503, 504)
_CONFLICT, _ABSENT = 409, 404
_OF_THE_SYSTEM = ("security_exception", READ_ONLY, "index_not_found_exception")
"""Errors of single documents that are not about their values."""
_WAITS_MAX = 6
_WAIT_S, _WAIT_MAX_S = 0.2, 10.0
_GROWTH = 1.25


class Refused(Struct, frozen=True):
    """A document that the server refuses. place: among those that were sent."""

    place: int
    status: int
    kind: str
    reason: str


def _is_missing(item: dict[str, Any]) -> bool:
    """Whether there is no document that could be deleted, or marked as deleted."""
    return "error" not in item or reason_of(item["error"])[0] == "document_missing_exception"


class BulkSender:
    """rows_now, bytes_now: how much a request has at most, now. taken: how many documents servers have taken.
    stale: how many were left as they were, because what is there is newer or was to be kept."""

    def __init__(
        self,
        client: Client,
        config: ElasticsearchDestinationConfig,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client, self._config, self._sleep = client, config, sleep
        self.rows_now, self.bytes_now = config.batch_size, int(config.batch_bytes)
        self.taken = self.stale = 0
        self._params = {"filter_path": "errors,items.*.status,items.*.error"}
        if config.pipeline is not None:
            self._params["pipeline"] = config.pipeline
        if config.refresh != "false":
            self._params["refresh"] = config.refresh

    async def send(self, documents: Documents, refused: list[Refused]) -> None:
        """Send what is left of the documents. Called again after an error, it goes on where it stopped. refused: gets
        those that the server refuses. Raises SystemError_."""
        waits = 0
        while documents.left:
            count = self._count(documents)
            places = documents.left[:count]
            answer = await self._ask(b"".join(documents.items[place] for place in places))
            if answer.status == _TOO_LARGE:
                self._smaller(documents, places, answer, refused)
                continue
            again = places
            if answer.status not in _BUSY:
                again = self._sorted(answer, places, refused)
            documents.left[:count] = again
            if not again:
                self._grow()
                waits = 0
                continue
            waits = 0 if len(again) < count else waits + 1
            if waits > _WAITS_MAX:
                raise (
                    self._client.refusal(answer, "a bulk request")
                    if answer.status in _BUSY
                    else (
                        self._client.failed(
                            429, "", f"{self._client.shown} is too busy for documents", ()
                        )
                    )
                )
            self.rows_now = max(1, count // 2)
            await self._wait(waits, answer)

    def _count(self, documents: Documents) -> int:
        """How many documents the next request has."""
        size = count = 0
        for place in documents.left[: self.rows_now]:
            size += len(documents.items[place])
            if count and size > self.bytes_now:
                break
            count += 1
        return count

    async def _ask(self, lines: bytes) -> Answer:
        return await self._client.ask(
            "POST", "/_bulk", params=self._params, lines=lines, fine=(_TOO_LARGE, *_BUSY),
            doing="a bulk request",
        )  # fmt: skip

    def _smaller(
        self, documents: Documents, places: Sequence[int], answer: Answer, refused: list[Refused]
    ) -> None:
        """A request was too large: halve it, or refuse its only document."""
        if len(places) == 1:
            size = len(documents.items[places[0]])
            reason = f"it has {size:,} bytes, and the server takes no request of that size"
            refused.append(Refused(places[0], answer.status, "", reason))
            del documents.left[:1]
            return
        size = sum(len(documents.items[place]) for place in places)
        self.bytes_now = max(1, size // 2)

    def _sorted(self, answer: Answer, places: Sequence[int], refused: list[Refused]) -> list[int]:
        """The places to send again. Counts the others, or adds them to `refused`."""
        try:
            data = answer.data
            items = [next(iter(item.values())) for item in data["items"]]
            has_errors = bool(data["errors"])
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
            raise self._client.strange("tell what became of documents") from error
        if len(items) != len(places):
            raise self._client.strange("tell what became of each document")
        if not has_errors:
            self.taken += len(places)
            return []
        again = []
        for place, item in zip(places, items, strict=True):
            status = int(item["status"])
            if status < 300 or (status == _ABSENT and _is_missing(item)):
                self.taken += 1
            elif status == _CONFLICT and self._keeps():
                self.taken += 1
                self.stale += 1
            elif self._is_busy(status, item):
                again.append(place)
            else:
                refused.append(self._refusal(place, status, item.get("error")))
        return again

    def _keeps(self) -> bool:
        """Whether a conflict says that the document is to stay as it is."""
        return self._config.op == "create" or self._config.sequence is not None

    @staticmethod
    def _is_busy(status: int, item: dict[str, Any]) -> bool:
        kind, _ = reason_of(item.get("error"))
        return status in _BUSY and kind != READ_ONLY

    def _refusal(self, place: int, status: int, error: Any) -> Refused:
        kind, reason = reason_of(error)
        if kind in _OF_THE_SYSTEM or status in (401, 403) or status >= 500:
            said = f"{self._client.shown} refuses a document"
            raise self._client.failed(status, kind, said, [f"it says: {reason[:300]}"])
        return Refused(place, status, kind, reason)

    def _grow(self) -> None:
        self.rows_now = min(self._config.batch_size, int(self.rows_now * _GROWTH) + 1)
        self.bytes_now = min(int(self._config.batch_bytes), int(self.bytes_now * _GROWTH) + 1)

    async def _wait(self, waits: int, answer: Answer) -> None:
        seconds = answer.retry_after_s
        if seconds is None:
            seconds = min(_WAIT_MAX_S, _WAIT_S * 2**waits) * random.uniform(0.5, 1.0)
        await self._sleep(min(seconds, _WAIT_MAX_S))
