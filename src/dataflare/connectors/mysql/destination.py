"""Write a table of a MySQL or MariaDB database: rows and epoch in one transaction."""

from __future__ import annotations

from collections.abc import Mapping

from dataflare.connectors.mysql.config import MysqlDestinationConfig
from dataflare.connectors.mysql.connection import Server
from dataflare.connectors.mysql.facts import destination_facts
from dataflare.connectors.mysql.store import MysqlStore
from dataflare.sdk.sql.destination import ServerTableDestination
from dataflare.sdk.threads import in_thread


class MysqlDestination(ServerTableDestination):
    """Writes a table. Only an empty table, a new column or an index is visible before `commit`."""

    type = "mysql"
    Config = MysqlDestinationConfig
    summary = "Write a table of a MySQL or MariaDB database, exactly once"
    example = """\
type: mysql
inputs: [orders]
config:
  connection_string: mysql://writer@localhost:3306/shop
  table: orders
  mode: upsert
  key: [order_id]
"""

    config: MysqlDestinationConfig

    @property
    def server(self) -> Server:
        return Server.of(self.config)

    def make_store(self, lineage: str, attempt: int, *, aside: bool) -> MysqlStore:
        return MysqlStore(self.server, lineage, attempt, aside=aside)

    async def inspect(self) -> Mapping[str, str]:
        """Facts about the server and the table, for `dataflare check`. Raises an error if it cannot
        be used."""
        return await in_thread(destination_facts, self.server, self.config.table)
