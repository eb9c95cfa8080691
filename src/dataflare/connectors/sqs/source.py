"""The `sqs` source: queues, each a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from dataflare.connectors.sqs.client import Queue, State
from dataflare.connectors.sqs.config import SqsSourceConfig
from dataflare.connectors.sqs.consuming import TOLD, Consuming
from dataflare.formats.messages.base64 import Base64Decoder
from dataflare.formats.messages.contract import Decoder
from dataflare.model.progress import Split
from dataflare.sdk.brokers.queue import QueueSession, QueueSource
from dataflare.sdk.source import Replay, SourceCapabilities
from dataflare.sdk.threads import in_thread


class SqsSource(QueueSource):
    """Queues."""

    type = "sqs"
    Config = SqsSourceConfig
    summary = "Reads queues of Amazon SQS; messages are deleted after the checkpoint."
    example = """\
orders:
  type: sqs
  config:
    queue: orders
    region: eu-central-1
    metadata: [id, timestamp]
  schema: {id: int64, amount: "decimal(12, 2)"}
"""
    told = TOLD

    def capabilities(self) -> SourceCapabilities:
        return SourceCapabilities(
            replay=Replay.REDELIVERED,
            replay_reason=f"messages are deleted after it, and known by their {self.config.id}",
            bounded=self.config.stop is not None,
            chunks=True,
            at_once=True,
        )

    def effects(self) -> Sequence[str]:
        return ["deletes the messages of the queue, after the checkpoint that has them"]

    @property
    def expects_ids(self) -> bool:
        return False

    @property
    def label(self) -> str:
        return ", ".join(f"queue '{name}'" for name in self.config.queues)

    def value_decoder(self, sample: pl.Series) -> Decoder:
        made = super().value_decoder(sample)
        return Base64Decoder(made) if self.config.encoding == "base64" else made

    async def validate(self) -> None:
        await in_thread(self._states)

    async def inspect(self) -> Mapping[str, str]:
        states = await in_thread(self._states)
        shown = {
            f"queue {name}": f"about {state.visible:,} messages, and {state.received:,} that were received"
            for name, state in states.items()
        }
        return {"server": f"SQS at {self.config.server}", **shown}

    def _queue(self, name: str) -> Queue:
        return Queue(self.config, self.config.queues[name], self.context.step)

    def _states(self) -> dict[str, State]:
        found = {}
        for name in self.config.queues:
            queue = self._queue(name)
            found[name] = queue.state()
            queue.close()
        return found

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        stops: dict[str, int] = {}
        if self.config.stop is not None:
            states = await in_thread(self._states)
            stops = {name: each.visible + each.received for name, each in states.items()}
        return [self.queue_split(name, carried, stops.get(name)) for name in self.config.queues]

    async def session(self, split: Split) -> tuple[QueueSession, int]:
        queue = await in_thread(self._queue, split.id)
        bounded = split.data["stop"] is not None
        return Consuming(queue, self.config, bounded=bounded), self.config.prefetch
