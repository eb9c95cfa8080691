"""Read the entries of one stream, alone or as a member of a consumer group.

Always true: entries come in the order of their ids, and a position is an id; no entry is passed over unless
`lost_entries` is skip, and then it is told how many were.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from redis.exceptions import RedisError, ResponseError

from dataflare.connectors.redis.errors import redis_errors
from dataflare.connectors.redis.stream_config import RedisSourceConfig
from dataflare.connectors.redis.streams import StreamState, number_of, raw_client, state_of
from dataflare.errors import DataFlareError, SystemError_
from dataflare.formats.messages.fields import pack
from dataflare.model.progress import Position
from dataflare.model.types import STRING, Schema, timestamp
from dataflare.sdk.brokers.reader import Feed, Message
from dataflare.sdk.source import EndOfSplit

TOLD = Schema.of([("id", STRING), ("stream", STRING), ("timestamp", timestamp("ms", "UTC"))])
"""What Redis says of an entry beside its fields."""
_BLOCK_S = 1.0
"""How long the server waits for an entry before it answers that there is none."""
_GONE = "NOGROUP"
Entries = Sequence[tuple[bytes, Any]]


class StreamFeed(Feed):
    """Reads a stream by its ids, as a file: nothing is changed on the server.

    after: the id of the last entry before those to read. index: how many entries were added up to it, where that is
    known; was_read: whether it was read up to there. stop: the last id to read, or None for a stream that is read without end."""

    def __init__(
        self,
        config: RedisSourceConfig,
        step: str,
        stream: str,
        *,
        after: str,
        index: int | None,
        stop: str | None,
        was_read: bool,
    ) -> None:
        self.config, self.step, self.stream = config, step, stream
        self.bounded = stop is not None
        self._after, self._index, self._stop = after, index, stop
        self._was_read = was_read
        self._client = raw_client(config, _BLOCK_S)
        self._warnings: dict[str, int] = {}

    @property
    def place(self) -> str:
        return f"stream '{self.stream}' of Redis at {self.config.server}"

    @property
    def warnings(self) -> Mapping[str, int]:
        return self._warnings

    def position(self) -> Position:
        return Position({"stream": self.stream, "id": self._after, "index": self._index})

    async def aclose(self) -> None:
        await self._client.aclose()

    async def take(self, most: int, wait_s: float | None) -> Sequence[Message]:
        loop = asyncio.get_running_loop()
        end = None if wait_s is None else loop.time() + wait_s
        while True:
            entries = await self._asked(self.read(most))
            if not entries and self._stop is not None:
                raise EndOfSplit
            left_s = _BLOCK_S if end is None else min(_BLOCK_S, end - loop.time())
            if not entries and left_s > 0.001:
                entries = await self._asked(self.wait(most, left_s))
            messages = self.given(entries)
            if messages or (end is not None and loop.time() >= end):
                return messages

    async def look(self, most: int) -> Sequence[Message]:
        """Some entries from where reading begins, else the newest ones. Nothing is taken."""
        ask = self._client.execute_command
        found = await self._asked(ask("XRANGE", self.stream, f"({self._after}", "+", "COUNT", most))
        if not found:
            found = await self._asked(ask("XREVRANGE", self.stream, "+", "-", "COUNT", most))
        return self.given(found)

    async def _asked(self, answer: Any) -> Entries:
        with redis_errors(self.config.server):
            found: Entries = await answer
            return found

    def given(self, entries: Entries) -> list[Message]:
        """The messages of entries; the place moves behind them."""
        if not entries:
            return []
        ids = [id_.decode() for id_, _ in entries]
        if self._stop is not None and number_of(ids[-1]) > (stop := number_of(self._stop)):
            kept = sum(number_of(id_) <= stop for id_ in ids)
            ids, entries = ids[:kept], entries[:kept]
            if not ids:
                raise EndOfSplit
        self._after, self._was_read = ids[-1], True
        if self._index is not None:
            self._index += len(ids)
        present = [(i, pairs) for i, (_, pairs) in zip(ids, entries, strict=True) if pairs]
        if len(present) < len(ids):
            self._lost(len(ids) - len(present))
        return [self._message(id_, pairs) for id_, pairs in present]

    def _message(self, id_: str, fields: Any) -> Message:
        pairs = list(zip(fields[::2], fields[1::2], strict=True))
        if self.config.field is None:
            value: bytes | None = pack(pairs)
        else:
            wanted = self.config.field.encode()
            value = next((v for name, v in pairs if name == wanted), None)
        told: dict[str, Any] = {"id": id_, "stream": self.stream}
        fault = None
        if "timestamp" in self.config.metadata:
            # A number, because Python has no year above 9999.
            at_ms = int(id_.partition("-")[0])
            if at_ms < 2**63:
                told["timestamp"] = at_ms
            else:
                fault = f"the time of the id {id_} does not fit a {TOLD['timestamp']}"
        size = 64 + (len(value) if value is not None else 0)
        return Message(value, told, f"{self.stream} entry {id_}", size, fault)

    def _lost(self, number: int | None) -> None:
        """Entries are gone that were not read. None: it is not known how many."""
        gone = "entries" if number is None else f"{number:,} entries"
        if self.config.lost_entries == "fail":
            raise SystemError_(
                f"{gone} of {self.place} were removed before they were read",
                code="E0605",
                step=self.step,
                help="keep more of the stream (MAXLEN, MINID), and set lost_entries: skip to go on with the "
                "oldest entry",
            )
        text = f"{self.place}: entries were removed before they were read"
        self._warnings[text] = self._warnings.get(text, 0) + (number or 0)

    def _made_again(self) -> DataFlareError:
        return SystemError_(
            f"{self.place} ends before entry {self._after}, up to which it was read: it was deleted and made again, "
            "or the server has lost its data",
            code="E0605",
            step=self.step,
            help="run with --fresh to read it from its start",
        )

    async def read(self, most: int) -> Entries:
        """The next entries, without waiting."""
        async with self._client.pipeline(transaction=True) as both:
            both.execute_command("XINFO", "STREAM", self.stream)
            both.execute_command("XREAD", "COUNT", most, "STREAMS", self.stream, self._after)
            info, found = await both.execute(raise_on_error=False)
        if isinstance(info, ResponseError) and "no such key" in str(info):
            state = None
        elif isinstance(info, RedisError):
            raise info
        else:
            state = state_of(info)
        if isinstance(found, RedisError):
            raise found
        self._check(state)
        return _entries(found)

    def _check(self, state: StreamState | None) -> None:
        """Whether what was read is still the beginning of what is there."""
        if state is None or number_of(state.last_id) < number_of(self._after):
            if self._was_read and number_of(self._after) > (0, 0):
                raise self._made_again()
            return
        if state.dropped is None or state.added is None or self._index is None:
            return
        if self._was_read and state.added < self._index:
            raise self._made_again()
        if state.dropped > self._index:
            self._lost(state.dropped - self._index)
            self._index = state.dropped

    async def wait(self, most: int, wait_s: float) -> Entries:
        """The next entries; waits until there is one."""
        block_ms = max(1, int(wait_s * 1000))
        return _entries(
            await self._client.execute_command(
                *("XREAD", "COUNT", most, "BLOCK", block_ms, "STREAMS", self.stream, self._after)
            )
        )


class GroupFeed(StreamFeed):
    """Reads as a member of a group: first what the member was given and did not acknowledge, behind the position; then
    new entries."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **{**more, "index": None})
        self._pending = True

    async def read(self, most: int) -> Entries:
        if self._pending:
            entries = await self._members(most, self._after)
            if entries:
                return entries
            self._pending = False
        return await self._members(most, ">")

    async def wait(self, most: int, wait_s: float) -> Entries:
        return await self._members(most, ">", "BLOCK", max(1, int(wait_s * 1000)))

    async def _members(self, most: int, after: str, *more: Any) -> Entries:
        group, consumer = self.config.group, self.config.consumer
        try:
            found = await self._client.execute_command(
                *("XREADGROUP", "GROUP", group, consumer, "COUNT", most, *more),
                *("STREAMS", self.stream, after),
            )
        except ResponseError as error:
            if _GONE in str(error):
                raise self._group_gone() from error
            raise
        return _entries(found)

    def _group_gone(self) -> DataFlareError:
        return SystemError_(
            f"the group '{self.config.group}' of {self.place} is not there any more",
            code="E0605",
            step=self.step,
            help="run with --fresh to make it again and read from 'start'",
        )


def _entries(found: Any) -> Entries:
    """Those of the only stream in an answer."""
    if not found:
        return ()
    # Protocol 3 has a map, protocol 2 a list of pairs.
    streams = found.items() if isinstance(found, dict) else found
    return next((entries for _, entries in streams), ())
