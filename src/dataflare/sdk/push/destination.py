"""The destination that sends a message for each row over a connection that stays open."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import polars as pl

from dataflare.model.types import Schema
from dataflare.sdk.brokers.destination import BrokerDestination
from dataflare.sdk.brokers.rows import MessageMaker, Shape
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import Committable, Delivery, DestinationCapabilities, Writer
from dataflare.sdk.messages.build import encoder
from dataflare.sdk.push.sending import Link, LinkWriter
from dataflare.sdk.threads import in_thread


class LinkDestination(BrokerDestination):
    """The config has `reply`. receiver: what the other end is called. unconfirmed: what is sent again without
    `reply`, as a sentence."""

    receiver: ClassVar[str]
    unconfirmed: ClassVar[str]

    @abstractmethod
    def link(self) -> Link:
        """A connection that is not open yet."""

    @abstractmethod
    def describe(self, link: Link) -> Mapping[str, str]:
        """What `check` shows of a connection that is open."""

    @abstractmethod
    def unfit(self) -> Sequence[pl.Expr]:
        """Why a message cannot be sent."""

    def capabilities(self) -> DestinationCapabilities:
        resent = self.unconfirmed
        if self.config.reply:
            resent = f"messages without the {self.receiver}'s reply are sent again when the connection breaks"
        return DestinationCapabilities(
            Delivery.REPEATING,
            f"{resent}, and so is what came since the last checkpoint after a crash",
        )

    async def inspect(self) -> Mapping[str, str]:
        link = self.link()
        try:
            await link.connect()
            return self.describe(link)
        finally:
            await link.aclose()

    async def validate(self, schema: Schema) -> None:
        await self.inspect()

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        maker = await in_thread(self._maker, context.schema)
        return LinkWriter(maker, context, self.label, self.link())

    def _maker(self, schema: Schema) -> MessageMaker:
        made = encoder(self.config, self.context, schema, topic=self.label)
        null = pl.when(pl.col("value").is_null()).then(pl.lit("its value is NULL"))
        return MessageMaker(Shape(["-"]), schema, made, lambda: [null, *self.unfit()])
