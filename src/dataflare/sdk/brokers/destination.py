"""The destination of a message broker that sends messages at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import Committer, DestinationConnector, NoCommitter, Target


class BrokerDestination(DestinationConnector):
    """The config has the `shape` of messages."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Where messages go, to show to the user."""

    @abstractmethod
    async def inspect(self) -> Mapping[str, str]:
        """For `check`. Raises an error if the broker cannot be reached, or the place is missing."""

    def writes_to(self) -> Target | None:
        return Target(self.label, shared=True)

    def identity(self) -> str | None:
        return self.label

    async def validate(self, schema: Schema) -> None:
        if schema.names:
            self.config.shape.check(self.context.step, schema)
        await self.inspect()

    async def committer(self, context: DestinationContext) -> Committer:
        return NoCommitter()
