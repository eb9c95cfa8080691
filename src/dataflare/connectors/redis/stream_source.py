"""The `redis` source: streams, each a split whose position is the id of an entry.

Always true: positions are those of the checkpoints; a group is told what a checkpoint has, and never before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from redis.exceptions import RedisError, ResponseError

from dataflare.connectors.redis.errors import redis_errors
from dataflare.connectors.redis.stream_config import FromId, FromTime, RedisSourceConfig
from dataflare.connectors.redis.stream_reader import TOLD, GroupFeed, StreamFeed
from dataflare.connectors.redis.streams import (
    BEGINNING,
    StreamState,
    before,
    number_of,
    raw_client,
    state_of,
)
from dataflare.errors import SystemError_
from dataflare.formats.messages.contract import Decoder
from dataflare.formats.messages.fields import FieldsDecoder, columns_of
from dataflare.model.progress import Position, Split
from dataflare.sdk.brokers.reader import Feed, Message
from dataflare.sdk.brokers.source import BrokerSource
from dataflare.sdk.source import Replay, SourceCapabilities, SupportsCommits

_SAMPLE = 1_000
_ACKNOWLEDGED = 1_000


class RedisSource(BrokerSource, SupportsCommits):
    """Streams."""

    type = "redis"
    Config = RedisSourceConfig
    summary = "Reads streams of Redis, alone or as a member of a consumer group."
    example = """\
orders:
  type: redis
  config:
    connection: "${secret:REDIS}"
    stream: orders
    metadata: [id]
  schema: {id: int64, amount: "decimal(12, 2)"}
"""
    told = TOLD
    places_differ = True

    def capabilities(self) -> SourceCapabilities:
        reason = "a stream has its entries by id"
        if self.config.group is not None:
            reason = "the group keeps the entries that are not acknowledged"
        return SourceCapabilities(
            replay=Replay.EXACT,
            replay_reason=reason,
            bounded=self.config.stop is not None,
            chunks=True,
            at_once=True,
        )

    def effects(self) -> Sequence[str]:
        if self.config.stop is None:
            return ()
        return ["reads the entries that are there when the run starts; the next run goes on there"]

    @property
    def label(self) -> str:
        return ", ".join(f"stream '{name}'" for name in self.config.streams)

    # -- what is there -----------------------------------------------------------------------------

    async def validate(self) -> None:
        for name, state in (await self._states()).items():
            if state is None and self.config.stop is not None:
                raise SystemError_(
                    f"there is no stream '{name}' in Redis at {self.config.server}",
                    code="E0604",
                    step=self.context.step,
                    help="look at 'stream' and at the number of the database in 'connection'",
                )

    async def inspect(self) -> Mapping[str, str]:
        states = await self._states()
        shown = {
            f"stream {name}": "not there yet" if state is None else f"{state.length:,} entries"
            for name, state in states.items()
        }
        return {"server": f"Redis at {self.config.server}", **shown}

    async def _states(self) -> dict[str, StreamState | None]:
        """Of each stream, None where it is not there."""
        client = raw_client(self.config)
        try:
            with redis_errors(self.config.server):
                return {name: await _state(client, name) for name in self.config.streams}
        finally:
            await client.aclose()

    # -- columns -----------------------------------------------------------------------------------

    def needs_sample(self) -> bool:
        return self.config.field is None or super().needs_sample()

    async def sample(self) -> Sequence[Message]:
        found: list[Message] = []
        for name, (after, _) in self._starts(await self._states()).items():
            feed = self._stream(name, after, None, None, was_read=False)
            try:
                found += await feed.look(_SAMPLE)
            finally:
                await feed.aclose()
        return found

    def value_decoder(self, sample: pl.Series) -> Decoder:
        if self.config.field is None:
            return FieldsDecoder(columns_of(sample, self.contract, self.learned))
        return super().value_decoder(sample)

    # -- splits ------------------------------------------------------------------------------------

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        states = await self._states()
        before_it = carried or {}
        starts = self._starts(states)
        starts |= {n: (at["id"], at["index"]) for n, at in before_it.items() if n in starts}
        splits = []
        for name, (after, index) in starts.items():
            state = states[name]
            stop = None
            if self.config.stop is not None:
                stop = state.last_id if state is not None else BEGINNING
            data = {"after": after, "index": index, "stop": stop, "was_read": name in before_it}
            splits.append(Split(name, data))
        if self.config.group is not None:
            await self._make_groups(starts)
        return splits

    def _starts(
        self, states: Mapping[str, StreamState | None]
    ) -> dict[str, tuple[str, int | None]]:
        """Where the first run begins in each stream: behind which entry, and how many were added up to it."""
        return {name: self._start(state) for name, state in states.items()}

    def _start(self, state: StreamState | None) -> tuple[str, int | None]:
        start = self.config.start
        if isinstance(start, FromTime):
            return before(f"{max(0, int(start.time.timestamp() * 1000))}-0"), None
        if isinstance(start, FromId):
            return before(start.id), None
        if state is None:
            return BEGINNING, 0
        return (state.last_id, state.added) if start == "latest" else (BEGINNING, state.dropped)

    async def _make_groups(self, starts: Mapping[str, tuple[str, int | None]]) -> None:
        client = raw_client(self.config)
        try:
            with redis_errors(self.config.server):
                for name, (after, _) in starts.items():
                    await _make_group(client, name, self.config.group, after)
        finally:
            await client.aclose()

    async def feed(self, split: Split, position: Position | None) -> Feed:
        at = split.data if position is None else position.value
        after = at["after"] if position is None else at["id"]
        was_read = position is not None or split.data["was_read"]
        return self._stream(split.id, after, at["index"], split.data["stop"], was_read=was_read)

    def _stream(
        self, name: str, after: str, index: int | None, stop: str | None, *, was_read: bool
    ) -> StreamFeed:
        made = StreamFeed if self.config.group is None else GroupFeed
        return made(
            self.config,
            self.context.step,
            name,
            after=after,
            index=index,
            stop=stop,
            was_read=was_read,
        )

    # -- positions ---------------------------------------------------------------------------------

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        return {
            id_: {"id": p.value["id"], "index": p.value["index"]} for id_, p in positions.items()
        }

    def end_of(self, split: Split) -> Position | None:
        data = split.data
        if data["stop"] is None:
            return None
        end = max(data["after"], data["stop"], key=number_of)
        return Position({"stream": split.id, "id": end, "index": None, "number": 0})

    async def committed(self, positions: Mapping[str, Position]) -> None:
        group, consumer = self.config.group, self.config.consumer
        if group is None or not positions:
            return
        client = raw_client(self.config)
        try:
            with redis_errors(self.config.server):
                for position in positions.values():
                    stream, last = position.value["stream"], position.value["id"]
                    await _acknowledge(client, stream, group, consumer, last)
        finally:
            await client.aclose()


async def _state(client: Any, name: str) -> StreamState | None:
    try:
        return state_of(await client.execute_command("XINFO", "STREAM", name))
    except ResponseError as error:
        if "no such key" in str(error):
            return None
        raise


async def _make_group(client: Any, stream: str, group: str | None, after: str) -> None:
    try:
        await client.execute_command("XGROUP", "CREATE", stream, group, after, "MKSTREAM")
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


async def _acknowledge(client: Any, stream: str, group: str, consumer: Any, last: str) -> None:
    """What this member was given up to an entry."""
    while True:
        try:
            pending = await client.execute_command(
                "XPENDING", stream, group, "-", last, _ACKNOWLEDGED, consumer
            )
        except RedisError as error:
            if "NOGROUP" in str(error):
                return  # the reader says that it is gone
            raise
        if not pending:
            return
        ids = [each[0] for each in pending]
        await client.execute_command("XACK", stream, group, *ids)
