"""Read a table or a query of a PostgreSQL database.

Always true: all parts of a full read see one snapshot of the database, as long as this process and
the server live; after a crash the unfinished parts continue from their last key in a new snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from msgspec.structs import replace

from dataflare.connectors.postgres.catalog import Connection, tables_and_views
from dataflare.connectors.postgres.config import PostgresSourceConfig
from dataflare.connectors.postgres.connection import Server, load_driver
from dataflare.connectors.postgres.errors import postgres_errors
from dataflare.connectors.postgres.facts import server_facts
from dataflare.connectors.postgres.incremental import IncrementalReader, check_incremental
from dataflare.connectors.postgres.kept import declarations_of
from dataflare.connectors.postgres.reader import KeyReader, Reading, StreamReader
from dataflare.connectors.postgres.relation import Relation, find_relation
from dataflare.connectors.postgres.shards import make_splits
from dataflare.connectors.postgres.snapshot import SharedSnapshot
from dataflare.model.progress import Split
from dataflare.sdk.catalog import Entry
from dataflare.sdk.declarations import Declarations
from dataflare.sdk.source import Replay, SplitReader
from dataflare.sdk.sql.config import Incremental
from dataflare.sdk.sql.incremental import State
from dataflare.sdk.sql.source import ServerTableSource, SupportsTables
from dataflare.sdk.threads import in_thread


class PostgresSource(ServerTableSource[Relation], SupportsTables[Relation]):
    """Rows of a table, view or query."""

    type = "postgres"
    Config = PostgresSourceConfig
    summary = "Read a table or a query of a PostgreSQL database"
    example = """\
type: postgres
config:
  connection_string: postgresql://reader@localhost:5432/shop
  table: public.orders
"""
    dialect = "postgres"

    config: PostgresSourceConfig

    def __init__(self, config: PostgresSourceConfig, context: Any) -> None:
        super().__init__(config, context)
        self._snapshot = SharedSnapshot()

    @property
    def server(self) -> Server:
        return Server.of(self.config)

    def errors(self, subject: str) -> AbstractContextManager[None]:
        return postgres_errors(self.server.label, subject)

    def list_tables(self, db: Connection) -> Sequence[Entry]:
        self.server.begin(db, "read only")
        return tables_and_views(db)

    def find_in(self, db: Connection) -> Relation:
        self.server.begin(db, "read only")
        return find_relation(db, self.server, self.config, self.contract)

    def check_incremental(self, relation: Relation, config: Incremental) -> None:
        check_incremental(relation, config)

    def replay_of(self, relation: Relation | None) -> tuple[Replay, str]:
        sharding = self.config.sharding
        if sharding is not None and sharding.by == "ctid":
            return Replay.NONE, "rows move between blocks"
        return super().replay_of(relation)

    def compares(self, relation: Relation, name: str) -> bool:
        return relation.column(name).exact

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        listed, _ = await asyncio.gather(super().splits(carried), in_thread(load_driver))
        return listed

    def cut_in(self, db: Connection, relation: Relation) -> Sequence[Split]:
        """The parts, computed in the snapshot from which they will be read."""
        name = f"dataflare {self.context.step} (snapshot)"
        snapshot = self._snapshot.take(self.server, name)
        self.server.begin(db, "isolation level repeatable read read only", snapshot)
        return make_splits(db, relation, self.config.sharding)

    def server_facts(self, db: Connection) -> Mapping[str, str]:
        return server_facts(db)

    def reading(self, relation: Relation) -> Reading:
        return Reading(**self.read_options(relation), server=self.server)

    def open_part(self, relation: Relation, split: Split, start: Mapping[str, Any]) -> SplitReader:
        reading = replace(self.reading(relation), snapshot=self._snapshot)
        reader = KeyReader if relation.key and "block" not in split.data else StreamReader
        return reader(reading, split.data, start)

    def open_new(self, relation: Relation, config: Incremental, state: State) -> SplitReader:
        return IncrementalReader(self.reading(relation), config, state)

    def declarations(self) -> Declarations | None:
        relation = self._relation
        if relation is None:
            return None
        return declarations_of(relation, self.output(relation), full=self.reads_all())

    async def aclose(self) -> None:
        await in_thread(self._snapshot.close)
