"""The `pulsar` source: topics, each partition a split.

Always true: positions are those of the checkpoints; the broker is told what a checkpoint has, and never before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dataflare.connectors.pulsar.client import close, connect, pulsar_errors
from dataflare.connectors.pulsar.config import PulsarSourceConfig
from dataflare.connectors.pulsar.sessions import (
    NOWHERE,
    TOLD,
    Consuming,
    OrderedFeed,
    Place,
    SharedSession,
)
from dataflare.model.progress import Position, Split
from dataflare.sdk.brokers.queue import QueueSession, QueueSource
from dataflare.sdk.brokers.reader import Feed
from dataflare.sdk.source import Replay, SourceCapabilities
from dataflare.sdk.threads import in_thread


class PulsarSource(QueueSource):
    """Topics."""

    type = "pulsar"
    Config = PulsarSourceConfig
    summary = "Reads topics of Apache Pulsar by a subscription, acknowledged after the checkpoint."
    example = """\
orders:
  type: pulsar
  config:
    connection: pulsar://localhost:6650
    topic: orders
    subscription: warehouse
    metadata: [key, timestamp]
  schema: {id: int64, amount: "decimal(12, 2)"}
"""
    told = TOLD

    def __init__(self, config: Any, context: Any) -> None:
        super().__init__(config, context)
        self._ordered: dict[str, OrderedFeed] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_ordered": {}}

    def capabilities(self) -> SourceCapabilities:
        config, known = self.config, "known by their ids"
        return SourceCapabilities(
            replay=Replay.REDELIVERED,
            replay_reason=f"messages are acknowledged after it, and {known}",
            bounded=config.stop is not None,
            changelog=config.tombstones == "delete",
            deletes_by_key=config.tombstones == "delete",
            chunks=True,
            at_once=True,
        )

    def effects(self) -> Sequence[str]:
        return [
            f"acknowledges the messages of subscription '{self.config.subscription}', after the checkpoint that has them"
        ]

    @property
    def label(self) -> str:
        return ", ".join(self.config.topics)

    async def validate(self) -> None:
        await self._partitions()

    async def inspect(self) -> Mapping[str, str]:
        version, partitions = await self._partitions()
        return {
            "server": f"Pulsar {version} at {self.config.server}",
            **{f"topic {topic}": f"{len(names)} to read" for topic, names in partitions.items()},
        }

    async def _partitions(self) -> tuple[str, dict[str, list[str]]]:
        """The version of the broker, and by topic the names of its partitions; a topic without them is its only one."""
        client, told = await connect(self.config, self.context)

        def ask() -> dict[str, list[str]]:
            with pulsar_errors(self.config.server):
                return {name: client.get_topic_partitions(name) for name in self.config.topics}

        try:
            return told.version, await in_thread(ask)
        finally:
            await close(client)

    # -- splits ------------------------------------------------------------------------------------

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        _, partitions = await self._partitions()
        names = [name for each in partitions.values() for name in each]
        if self.config.shared:
            return [self.queue_split(name, carried, None) for name in names]
        return [
            Split(
                name,
                {
                    "after": list((carried or {}).get(name, {"after": NOWHERE})["after"]),
                    "stop": await self._last(name) if self.config.stop is not None else None,
                },
            )
            for name in names
        ]

    async def _last(self, topic: str) -> list[int]:
        """The place of the last message. The subscription is made by it, so that the broker keeps what comes then."""
        consuming = Consuming(self.config, self.context, topic)
        await consuming.begin()
        try:
            return list(await consuming.last())
        finally:
            await consuming.aclose()

    async def feed(self, split: Split, position: Position | None) -> Feed:
        if self.config.shared:
            return await super().feed(split, position)
        before = self._ordered.pop(split.id, None)
        if before is not None:
            await before.consuming.aclose()
        after = split.data["after"] if position is None else position.value["after"]
        stop = split.data["stop"]
        consuming = Consuming(self.config, self.context, split.id)
        await consuming.begin()
        feed = OrderedFeed(consuming, _place(after), None if stop is None else _place(stop))
        self._ordered[split.id] = feed
        await feed.begin()
        return feed

    async def session(self, split: Split) -> tuple[QueueSession, int]:
        consuming = Consuming(self.config, self.context, split.id)
        await consuming.begin()
        return SharedSession(consuming), self.config.prefetch

    # -- positions ---------------------------------------------------------------------------------

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        if self.config.shared:
            return super().carry(positions)
        return {id_: {"after": position.value["after"]} for id_, position in positions.items()}

    async def committed(self, positions: Mapping[str, Position]) -> None:
        if self.config.shared:
            await super().committed(positions)
            return
        for id_, position in positions.items():
            feed = self._ordered.get(id_)
            if feed is not None:
                await feed.committed(_place(position.value["after"]))

    async def aclose(self) -> None:
        ordered, self._ordered = self._ordered, {}
        for feed in ordered.values():
            await feed.consuming.aclose()
        await super().aclose()


def _place(value: Sequence[int]) -> Place:
    ledger, entry, batch = value
    return ledger, entry, batch
