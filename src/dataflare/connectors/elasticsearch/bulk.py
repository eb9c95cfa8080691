"""Documents in bulk requests: several at a time, and fewer, smaller and slower ones where the server asks for it.

Always true: requests that are under way together have documents that were made together, of which each _id comes once, so
the order of requests does not matter for what the index has; what a server put off is sent again before what was made
later; a document that a server refuses is told with the server's reason, and the others of its request are written.
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
from dataflare.sdk.in_flight import AdaptiveLimit

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
    """limit: of requests under way. rows_now, bytes_now: how much a request has at most, now. taken: how many documents servers have taken.
    stale: how many were left as they were, because what is there is newer or was to be kept."""

    def __init__(
        self,
        client: Client,
        config: ElasticsearchDestinationConfig,
        limit: AdaptiveLimit,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client, self._config, self._limit, self._sleep = client, config, limit, sleep
        self._has_failed = False
        self.rows_now, self.bytes_now = config.batch_size, int(config.batch_bytes)
        self.taken = self.stale = 0
        self._params = {"filter_path": "errors,items.*.status,items.*.error"}
        if config.pipeline is not None:
            self._params["pipeline"] = config.pipeline
        if config.refresh != "false":
            self._params["refresh"] = config.refresh

    async def send(self, documents: Documents, refused: list[Refused]) -> None:
        """Send what is left of the documents, by several requests at a time. Called again after an error, it goes on where it
        stopped. refused: gets those that the server refuses, in any order. Raises SystemError_."""
        self._has_failed = False
        lanes = [self._send_some(documents, refused) for _ in range(self._config.concurrency)]
        for outcome in await asyncio.gather(*lanes, return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def _send_some(self, documents: Documents, refused: list[Refused]) -> None:
        """Send requests one after the other, until nothing is left or another lane has failed."""
        waits = 0
        while documents.left and not self._has_failed:
            count = self._count(documents)
            places = documents.left[:count]
            del documents.left[:count]
            left: Sequence[int] = places
            try:
                answer, left = await self._ask(documents, places, refused)
            except BaseException:
                self._has_failed = True
                raise
            finally:
                documents.left[:0] = left
            if answer.status == _TOO_LARGE:
                continue
            if not left:
                self._grow()
                waits = 0
                continue
            waits = 0 if len(left) < count else waits + 1
            if waits > _WAITS_MAX:
                self._has_failed = True
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

    async def _ask(
        self, documents: Documents, places: Sequence[int], refused: list[Refused]
    ) -> tuple[Answer, Sequence[int]]:
        """Send documents by one request. Gives the answer, and the places of those to send again."""
        lines = b"".join(documents.items[place] for place in places)
        async with self._limit.turn(len(lines)) as turn:
            answer = await self._client.ask(
                "POST", "/_bulk", params=self._params, lines=lines, fine=(_TOO_LARGE, *_BUSY),
                doing="a bulk request",
            )  # fmt: skip
            if answer.status == _TOO_LARGE:
                return answer, self._smaller(len(lines), places, answer, refused)
            again = places
            if answer.status not in _BUSY:
                again = self._sorted(answer, places, refused)
            turn.failed = bool(again)
            return answer, again

    def _smaller(
        self, size: int, places: Sequence[int], answer: Answer, refused: list[Refused]
    ) -> Sequence[int]:
        """A request was too large: halve it, or refuse its only document. Gives what to send again."""
        if len(places) == 1:
            reason = f"it has {size:,} bytes, and the server takes no request of that size"
            refused.append(Refused(places[0], answer.status, "", reason))
            return ()
        self.bytes_now = max(1, size // 2)
        return places

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
        again, no, taken, stale = [], [], 0, 0
        for place, item in zip(places, items, strict=True):
            status = int(item["status"])
            if status < 300 or (status == _ABSENT and _is_missing(item)):
                taken += 1
            elif status == _CONFLICT and self._keeps():
                taken += 1
                stale += 1
            elif self._is_busy(status, item):
                again.append(place)
            else:
                no.append(self._refusal(place, status, item.get("error")))
        # Only now: where one of them is an error, the whole request is sent again.
        self.taken, self.stale = self.taken + taken, self.stale + stale
        refused += no
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
