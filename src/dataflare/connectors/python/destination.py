"""The `python` destination: a user's function that gets each batch.

Always true: the function gets a row at least once: after a crash, it gets rows since the last
checkpoint again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dataflare.connectors.python.named import NamedConfig, connector_of, load
from dataflare.errors import DataFlareError
from dataflare.model.batch import SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk import user_code
from dataflare.sdk.context import ConnectorContext, DestinationContext
from dataflare.sdk.destination import (
    Committable,
    Delivery,
    DestinationCapabilities,
    DestinationConnector,
    Writer,
    WriteStats,
)
from dataflare.sdk.threads import in_thread


class PythonDestinationConfig(NamedConfig):
    """Options of a `python` destination."""


class PythonDestination(DestinationConnector):
    """A function that is called with each batch."""

    type = "python"
    Config = PythonDestinationConfig
    summary = "Calls a function of your own with each batch, a Polars frame."
    example = """\
sent:
  type: python
  inputs: [orders]
  config: {function: "my_destinations:send"}
"""

    def __new__(
        cls, config: PythonDestinationConfig | None = None, context: ConnectorContext | None = None
    ) -> Any:
        return connector_of(DestinationConnector, config, context) or super().__new__(cls)

    def capabilities(self) -> DestinationCapabilities:
        load(self.config, self.context)
        return DestinationCapabilities(
            Delivery.REPEATING,
            f"{self.config.function} gets a batch again when the run restarts before a checkpoint",
            local=True,
        )

    async def validate(self, schema: Schema) -> None:
        load(self.config, self.context)

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        return PythonWriter(self.context.step, self.config, load(self.config, self.context))


class PythonWriter(Writer):
    """Calls the function, one batch after the other."""

    def __init__(self, step: str, config: NamedConfig, function: Callable[..., Any]) -> None:
        self._step, self._config, self._function = step, config, function

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        await in_thread(self._call, batch)
        return WriteStats(batch.num_rows, batch.num_bytes)

    def _call(self, batch: SharedDataBatch) -> None:
        try:
            self._function(batch.frame, **self._config.options)
        except DataFlareError:
            raise
        except BaseException as error:
            raise user_code.raised(self._step, self._config.function, error) from error
