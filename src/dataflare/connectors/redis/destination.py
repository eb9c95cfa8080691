"""The `redis` destination: rows as entries of a stream, items of a list, hashes or JSON documents."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from dataflare.connectors.redis.commands import Command, FieldsEncoder, commands_of, unfit
from dataflare.connectors.redis.committing import EpochCommitter
from dataflare.connectors.redis.connection import connected
from dataflare.connectors.redis.destination_config import RedisDestinationConfig
from dataflare.connectors.redis.errors import redis_errors
from dataflare.model.types import Schema
from dataflare.sdk.brokers.destination import BrokerDestination
from dataflare.sdk.brokers.rows import MessageMaker
from dataflare.sdk.brokers.writing import DirectWriter, EpochWriter
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import (
    Committable,
    Committer,
    Delivery,
    DestinationCapabilities,
    Target,
    Writer,
)
from dataflare.sdk.in_flight import limit_of
from dataflare.sdk.messages.build import encoder
from dataflare.sdk.threads import in_thread

_PIPELINE = 5_000


class RedisDestination(BrokerDestination):
    """A stream, a list, or the keys of rows."""

    type = "redis"
    Config = RedisDestinationConfig
    summary = "Writes entries of streams, items of lists, hashes or JSON documents to Redis, exactly once."
    example = """\
out:
  type: redis
  inputs: [orders]
  config:
    connection: "${secret:REDIS}"
    stream: orders-clean
    maxlen: 1000000
"""

    @property
    def _exactly_once(self) -> bool:
        return bool(self.config.guarantee == "exactly_once")

    @property
    def mode(self) -> str:
        return str(self.config.real_mode)

    @property
    def adds_for_good(self) -> bool:
        return self._exactly_once and not self.config.key

    def capabilities(self) -> DestinationCapabilities:
        keyed = bool(self.config.key)
        if self._exactly_once:
            delivery = Delivery.TRANSACTIONAL
            reason = "rows and their marker are one transaction of Redis, as durable as its append-only file"
        elif keyed:
            delivery = Delivery.IDEMPOTENT
            reason = "the last row of a key is what the key has; rows come again after a crash"
        else:
            delivery = Delivery.REPEATING
            reason = "rows are written at once, and again after a crash"
        if self.mode == "upsert":
            reason += "; upsert ignores deletes"
        return DestinationCapabilities(
            delivery,
            reason,
            changelog=keyed,
            changelog_with="key: [columns] and mode: upsert or mirror",
        )

    def writes_to(self) -> Target | None:
        return Target(self.label, shared=not self.config.key)

    @property
    def label(self) -> str:
        config = self.config
        name = config.stream or config.list_ or ":".join(f"{{{name}}}" for name in config.key)
        what = config.kind if not config.key else f"{config.kind} for each"
        return f"{what} '{config.key_prefix}{name}' of Redis at {config.server}"

    async def inspect(self) -> Mapping[str, str]:
        client = connected(self.config)
        try:
            with redis_errors(self.config.server):
                await client.ping()
        finally:
            await client.aclose()
        return {"server": f"Redis at {self.config.server}", "writes": self.label}

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        maker = await in_thread(self._maker, context.schema)
        if self._exactly_once:
            return EpochWriter(maker, context, self.label, restored)
        return RedisWriter(maker, context, self.label, self.config)

    def _maker(self, schema: Schema) -> MessageMaker:
        config = self.config
        shape = config.shape
        shape.check(self.context.step, schema)
        if config.kind == "hash" or (config.kind == "stream" and config.field is None):
            return MessageMaker(shape, schema, FieldsEncoder(), lambda: unfit(config))
        made = encoder(config, self.context, shape.value_columns(schema), topic=self.label)
        return MessageMaker(shape, schema, made, lambda: unfit(config))

    async def committer(self, context: DestinationContext) -> Committer:
        if not self._exactly_once:
            return await super().committer(context)
        return EpochCommitter(self.config, context, self.label)


class RedisWriter(DirectWriter):
    """Writes at once."""

    def __init__(
        self,
        maker: MessageMaker,
        context: DestinationContext,
        place: str,
        config: RedisDestinationConfig,
    ) -> None:
        super().__init__(maker, context, place)
        self._config = config
        self._client = connected(config)
        self._limit = limit_of(context.step, config.server, context.subtasks)

    async def send(self, messages: pl.DataFrame) -> None:
        # One pipeline after the other: what follows for the same key comes later.
        for part in messages.iter_slices(_PIPELINE):
            commands = await in_thread(self._commands, part)
            with redis_errors(self._config.server):
                async with (
                    self._limit.turn(len(commands)),
                    self._client.pipeline(transaction=False) as pipe,
                ):
                    for command in commands:
                        pipe.execute_command(*command)
                    await pipe.execute()

    def _commands(self, messages: pl.DataFrame) -> list[Command]:
        return list(commands_of(self._config, messages))

    async def aclose(self) -> None:
        await self._client.aclose()
