"""Write a table of a PostgreSQL database: rows and epoch in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dataflare.connectors.postgres import kept
from dataflare.connectors.postgres.config import PostgresDestinationConfig
from dataflare.connectors.postgres.connection import Server
from dataflare.connectors.postgres.facts import destination_facts
from dataflare.connectors.postgres.store import PostgresStore
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.sql.destination import TableDestination
from dataflare.sdk.sql.session import Session, shared_session
from dataflare.sdk.sql.store import Target
from dataflare.sdk.threads import in_thread


class PostgresDestination(TableDestination):
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
    def _server(self) -> Server:
        return Server.of(self.config)

    def effects(self) -> Sequence[str]:
        declarations = self.target(Schema.of([])).declarations
        made = kept.effects(declarations, self.config.mode, self.config.table)
        return [*super().effects(), *made]

    def identity(self) -> str:
        return f"table {self.config.table} in {self._server.label}"

    async def inspect(self) -> Mapping[str, str]:
        """Facts about the server and the table, for `dataflare check`. Raises an error if it cannot
        be used."""
        config = self.config
        return await in_thread(destination_facts, self._server, config.table, config.mode)

    def session(self, context: DestinationContext) -> Session:
        server, lineage, attempt = self._server, context.lineage, context.attempt
        key = self.type, server.conninfo, lineage, attempt
        return shared_session(
            key,
            self.type,
            lambda aside: PostgresStore(server, lineage, attempt, aside=aside),
        )

    def report_place(self) -> Mapping[str, str]:
        return {"database": self._server.label}

    def look(self, target: Target, *, check: bool) -> Sequence[str]:
        return PostgresStore(self._server, self.context.step, 0).look(target, check=check)

    def folded(self, name: str) -> str:
        return name
