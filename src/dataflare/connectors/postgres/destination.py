"""Write a table of a PostgreSQL database: rows and epoch in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dataflare.connectors.postgres import kept
from dataflare.connectors.postgres.config import PostgresDestinationConfig
from dataflare.connectors.postgres.connection import Server
from dataflare.connectors.postgres.facts import destination_facts
from dataflare.connectors.postgres.store import PostgresStore
from dataflare.model.types import Schema
from dataflare.sdk.sql.destination import ServerTableDestination
from dataflare.sdk.threads import in_thread


class PostgresDestination(ServerTableDestination):
    """Writes a table. Only an empty table is visible before `commit`."""

    type = "postgres"
    Config = PostgresDestinationConfig
    summary = "Write a table of a PostgreSQL database, exactly once"
    example = """\
type: postgres
inputs: [orders]
config:
  connection_string: postgresql://writer@localhost:5432/shop
  table: public.orders
  mode: upsert
  key: [order_id]
"""

    config: PostgresDestinationConfig

    @property
    def server(self) -> Server:
        return Server.of(self.config)

    def make_store(self, lineage: str, attempt: int, *, aside: bool) -> PostgresStore:
        return PostgresStore(self.server, lineage, attempt, aside=aside)

    def effects(self) -> Sequence[str]:
        declarations = self.target(Schema.of([])).declarations
        made = kept.effects(declarations, self.config.mode, self.config.table)
        return [*super().effects(), *made]

    async def inspect(self) -> Mapping[str, str]:
        """Facts about the server and the table, for `dataflare check`. Raises an error if it cannot
        be used."""
        config = self.config
        return await in_thread(destination_facts, self.server, config.table, config.mode)

    def folded(self, name: str) -> str:
        return name
