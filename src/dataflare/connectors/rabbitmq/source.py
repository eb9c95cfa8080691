"""The `rabbitmq` source: queues, each a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dataflare.connectors.rabbitmq.client import close, connect
from dataflare.connectors.rabbitmq.config import FromOffset, FromTime, RabbitmqSourceConfig
from dataflare.connectors.rabbitmq.sessions import TOLD, Consuming, QueueConsumer, StreamFeed
from dataflare.model.progress import Position, Split
from dataflare.sdk.brokers.queue import QueueSession, QueueSource
from dataflare.sdk.brokers.reader import Feed
from dataflare.sdk.source import Replay, SourceCapabilities


class RabbitmqSource(QueueSource):
    """Queues."""

    type = "rabbitmq"
    Config = RabbitmqSourceConfig
    summary = (
        "Reads queues of RabbitMQ, acknowledged after the checkpoint, and streams by their offsets."
    )
    example = """\
orders:
  type: rabbitmq
  config:
    connection: "${secret:RABBITMQ}"
    queue: orders
    metadata: [id, routing_key]
  schema: {id: int64, amount: "decimal(12, 2)"}
"""
    told = TOLD

    @property
    def _is_stream(self) -> bool:
        return bool(self.config.kind == "stream")

    def capabilities(self) -> SourceCapabilities:
        if self._is_stream:
            return SourceCapabilities(
                replay=Replay.EXACT,
                replay_reason="a stream has its messages by offset",
                bounded=False,
                chunks=True,
                at_once=True,
            )
        return SourceCapabilities(
            replay=Replay.REDELIVERED,
            replay_reason="messages are acknowledged after it, "
            + (
                f"and known by their {self.config.id}"
                if self.config.id
                else "and one without a message_id may come twice: 'id' says that all have one"
            ),
            repeats=self.config.id is None,
            bounded=self.config.stop is not None,
            chunks=True,
            at_once=True,
        )

    def effects(self) -> Sequence[str]:
        if self._is_stream:
            return ()
        taken = "takes the messages out of the queue, after the checkpoint that has them"
        return [taken]

    @property
    def expects_ids(self) -> bool:
        return self.config.id is not None

    @property
    def label(self) -> str:
        return ", ".join(f"queue '{name}'" for name in self.config.queues)

    async def validate(self) -> None:
        await self._ready()

    async def inspect(self) -> Mapping[str, str]:
        shown = {
            f"queue {name}": f"{count:,} messages" for name, count in (await self._ready()).items()
        }
        return {"server": f"RabbitMQ at {self.config.server}", **shown}

    async def _ready(self) -> dict[str, int]:
        """How many messages each queue has."""
        connection = await connect(self.config, self.context)
        try:
            return {
                name: await Consuming(connection, self.config, name).ready()
                for name in self.config.queues
            }
        finally:
            await close(connection)

    # -- splits ------------------------------------------------------------------------------------

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        if self._is_stream:
            at = carried or {}
            return [
                Split(name, {"offset": at.get(name, {}).get("offset")})
                for name in self.config.queues
            ]
        ready = await self._ready()
        stops = ready if self.config.stop is not None else {}
        return [self.queue_split(name, carried, stops.get(name)) for name in self.config.queues]

    async def feed(self, split: Split, position: Position | None) -> Feed:
        if not self._is_stream:
            return await super().feed(split, position)
        at = split.data if position is None else position.value
        connection = await connect(self.config, self.context)
        made = StreamFeed(Consuming(connection, self.config, split.id), at["offset"])
        try:
            await made.begin(self._begins())
        except BaseException:
            await made.aclose()
            raise
        return made

    def _begins(self) -> Any:
        """Where reading a stream begins, as the server takes it."""
        start = self.config.start
        if isinstance(start, FromOffset):
            return start.offset
        if isinstance(start, FromTime):
            return start.time
        return "first" if start == "earliest" else "next"

    async def session(self, split: Split) -> tuple[QueueSession, int]:
        connection = await connect(self.config, self.context)
        consuming = Consuming(connection, self.config, split.id)
        try:
            await consuming.begin(self.config.prefetch, {})
        except BaseException:
            await close(connection)
            raise
        return QueueConsumer(consuming), self.config.prefetch

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        if self._is_stream:
            return {id_: {"offset": p.value["offset"]} for id_, p in positions.items()}
        return super().carry(positions)

    async def committed(self, positions: Mapping[str, Position]) -> None:
        if not self._is_stream:
            await super().committed(positions)
