"""Read a table or a query of a PostgreSQL database.

Always true: all parts of a full read see one snapshot of the database, as long as this process and
the server live; after a crash the unfinished parts continue from their last key in a new snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from dataflare.connectors.postgres.catalog import Connection, tables_and_views
from dataflare.connectors.postgres.config import PostgresSourceConfig
from dataflare.connectors.postgres.connection import Server, load_driver
from dataflare.connectors.postgres.errors import postgres_errors
from dataflare.connectors.postgres.facts import source_facts
from dataflare.connectors.postgres.incremental import IncrementalReader, check_incremental
from dataflare.connectors.postgres.kept import declarations_of
from dataflare.connectors.postgres.reader import KeyReader, Reading, StreamReader
from dataflare.connectors.postgres.relation import Relation, find_relation
from dataflare.connectors.postgres.shards import make_splits
from dataflare.connectors.postgres.snapshot import SharedSnapshot
from dataflare.model.progress import Split
from dataflare.sdk.catalog import Entry, SupportsCatalog
from dataflare.sdk.declarations import Declarations
from dataflare.sdk.source import Replay, SplitReader
from dataflare.sdk.sql.incremental import State
from dataflare.sdk.sql.source import UNCHOSEN_TABLE, TableSource
from dataflare.sdk.threads import in_thread

T = TypeVar("T")


class PostgresSource(TableSource[Relation], SupportsCatalog):
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
    unchosen = UNCHOSEN_TABLE

    config: PostgresSourceConfig

    def __init__(self, config: PostgresSourceConfig, context: Any) -> None:
        super().__init__(config, context)
        self._snapshot = SharedSnapshot()

    async def catalog(self) -> Sequence[Entry]:
        return await in_thread(self._with_db, "its tables", "read only", None, tables_and_views)

    def find(self) -> Relation:
        relation = self._with_db(
            self.label,
            "read only",
            None,
            lambda db: find_relation(db, self._server, self.config, self.contract),
        )
        if self.config.incremental is not None:
            check_incremental(relation, self.config.incremental)
        return relation

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

    def cut(self, relation: Relation) -> Sequence[Split]:
        """The parts, computed in the snapshot from which they will be read."""
        name = f"dataflare {self.context.step} (snapshot)"
        return self._with_db(
            relation.label,
            "isolation level repeatable read read only",
            self._snapshot.take(self._server, name),
            lambda db: make_splits(db, relation, self.config.sharding),
        )

    def cut_by(self) -> str:
        sharding = self.config.sharding
        return "" if sharding is None else sharding.label("the key")

    def open_part(self, relation: Relation, split: Split, start: Mapping[str, Any]) -> SplitReader:
        reading = self._reading(relation, self._snapshot)
        if relation.key and "block" not in split.data:
            return KeyReader(reading, split.data, start)
        return StreamReader(reading, split.data, start)

    def open_new(self, relation: Relation, state: State) -> SplitReader:
        assert self.config.incremental is not None
        return IncrementalReader(self._reading(relation, None), self.config.incremental, state)

    def _reading(self, relation: Relation, snapshot: SharedSnapshot | None) -> Reading:
        return Reading(
            server=self._server,
            step=self.context.step,
            relation=relation,
            output=self.output(relation),
            filters=self._filters,
            rows_max=self.config.batch_size,
            snapshot=snapshot,
        )

    def declarations(self) -> Declarations | None:
        relation = self._relation
        if relation is None:
            return None
        return declarations_of(relation, self.output(relation), full=self.reads_all())

    async def inspect(self) -> Mapping[str, str]:
        """Facts about the server and the relation, for `dataflare check`. Raises an error if it
        cannot be read."""
        relation = await self.look()
        return await in_thread(source_facts, self._server, relation, self._replay()[0])

    async def aclose(self) -> None:
        await in_thread(self._snapshot.close)

    @property
    def _server(self) -> Server:
        return Server.of(self.config)

    def _with_db(
        self, subject: str, how: str, snapshot: str | None, ask: Callable[[Connection], T]
    ) -> T:
        """The result of `ask` with a transaction."""
        server = self._server
        db = server.connect(f"dataflare {self.context.step}")
        try:
            with postgres_errors(server.label, subject):
                server.begin(db, how, snapshot)
                return ask(db)
        finally:
            db.close()
