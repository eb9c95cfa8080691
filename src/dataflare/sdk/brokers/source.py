"""The source of a message broker: what does not depend on the broker."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import polars as pl

from dataflare.errors import ConfigError
from dataflare.formats.messages.contract import Decoder
from dataflare.formats.messages.envelope import Envelope
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk.brokers.reader import NUMBER, Feed, Message, MessageReader
from dataflare.sdk.messages.build import decoder, envelope, needs_sample
from dataflare.sdk.messages.letters import SupportsMessages
from dataflare.sdk.source import SourceConnector, SplitReader
from dataflare.sdk.threads import in_thread


class BrokerSource(SourceConnector, SupportsMessages):
    """told: the names and types of what the broker says of a message, which `metadata` may name."""

    told: ClassVar[Schema]
    finds_new_fields = True
    tries_again = True

    def __init__(self, config: Any, context: Any) -> None:
        super().__init__(config, context)
        self._envelope: Envelope | None = None

    @property
    @abstractmethod
    def label(self) -> str:
        """What is read, to show to the user and to name schemas in a registry: 'orders'."""

    @abstractmethod
    async def sample(self) -> Sequence[Message]:
        """Some messages from where reading begins, which are read again later. None where the broker cannot
        show a message without giving it away."""

    @abstractmethod
    async def feed(self, split: Split, position: Position | None) -> Feed:
        """The messages of a split from a position on."""

    async def schema(self) -> Schema:
        return (await self.made_envelope()).schema

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        made = await self.made_envelope()
        number = int(position.value[NUMBER]) if position is not None else 0
        return MessageReader(await self.feed(split, position), made, self.told, number)

    async def made_envelope(self) -> Envelope:
        if self._envelope is None:
            sample: Sequence[Message] = ()
            if self.needs_sample():
                sample = await self.sample()
                if not sample and self.contract is None:
                    self._check_unknown()
            values = pl.Series([message.value for message in sample], dtype=pl.Binary)
            self._envelope = await in_thread(self._make_envelope, values)
        return self._envelope

    def told_of_messages(self) -> Schema:
        return self.told

    def needs_sample(self) -> bool:
        return needs_sample(self.config)

    def _check_unknown(self) -> None:
        """Raises ConfigError where the columns cannot be found without a message."""
        if self.learned:
            return
        raise ConfigError(
            f"{self.label} has no message from which the columns can be known",
            code="E0405",
            step=self.context.step,
            help="list the columns in 'schema'",
        )

    def _make_envelope(self, sample: pl.Series) -> Envelope:
        value, key = self.value_decoder(sample), None
        if getattr(self.config, "key_format", None) is not None:
            key = decoder(self.config, self.context, topic=self.label, is_key=True)
        return envelope(self.config, self.context, value, self.told, key)

    def value_decoder(self, sample: pl.Series) -> Decoder:
        """What reads the values. sample: some values."""
        return decoder(
            self.config,
            self.context,
            topic=self.label,
            contract=self.contract,
            sample=sample,
            learned=self.learned,
            has_headers="headers" in self.told,
        )
