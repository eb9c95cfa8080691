"""The `blackhole` destination: takes every row and keeps none, to measure what is in front of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from dataflare.model.batch import SharedDataBatch
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import (
    Committable,
    Delivery,
    DestinationCapabilities,
    DestinationConnector,
    Writer,
    WriteStats,
)


class BlackholeConfig(BaseModel):
    """A `blackhole` destination has no options."""

    model_config = ConfigDict(extra="forbid")


class BlackholeDestination(DestinationConnector):
    """Nowhere. The run counts the rows."""

    type = "blackhole"
    Config = BlackholeConfig
    summary = "Counts rows and keeps none of them."
    example = """\
nowhere:
  type: blackhole
  inputs: [orders]
  config: {}
"""

    def capabilities(self) -> DestinationCapabilities:
        return DestinationCapabilities(
            Delivery.FLEETING,
            "nothing is kept",
            parallel=True,
            changelog=True,
            truncates=True,
            local=True,
        )

    async def open(
        self, context: DestinationContext, restored: Committable | None
    ) -> BlackholeWriter:
        return BlackholeWriter()


class BlackholeWriter(Writer):
    """Lets go of each batch."""

    takes_at_once = True

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        return WriteStats(batch.num_rows, batch.num_bytes)
