"""Read a table or a query of a PostgreSQL database.

Always true: all parts of a full read see one snapshot of the database, as long as this process and
the server live; after a crash the unfinished parts continue from their last key in a new snapshot.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

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
from dataflare.errors import DataFlareError
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk.declarations import Declarations
from dataflare.sdk.source import (
    Replay,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
    SupportsFilter,
    SupportsProjection,
)
from dataflare.sdk.sql.incremental import State
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.expr import Typed
    from dataflare.expr.sql import SqlText

_INCREMENTAL = "incremental"


class PostgresSource(SourceConnector, SupportsProjection, SupportsFilter):
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
    contract: Schema | None = None
    """The step's `schema`: the types its columns are read as."""

    config: PostgresSourceConfig

    def __init__(self, config: PostgresSourceConfig, context: Any) -> None:
        super().__init__(config, context)
        self._relation: Relation | None = None
        self._columns: tuple[str, ...] | None = None
        self._filters: tuple[SqlText, ...] = ()
        self._snapshot = SharedSnapshot()

    def capabilities(self) -> SourceCapabilities:
        replay, reason = self._replay()
        return SourceCapabilities(replay=replay, replay_reason=reason, bounded=True, chunks=True)

    def _replay(self) -> tuple[Replay, str]:
        if self.config.incremental is not None:
            return Replay.BY_KEY, "rows are read again from the last cursor value"
        if self.config.query is not None:
            return Replay.NONE, "a query may give other rows, or another order, each time"
        sharding = self.config.sharding
        if sharding is not None and sharding.by == "ctid":
            return Replay.NONE, "rows move between blocks"
        if self._relation is not None and not self._relation.key:
            return Replay.NONE, f"{self._relation.label} has no key to continue from"
        return Replay.BY_KEY, "an unfinished range is read again from its last key"

    async def validate(self) -> None:
        await self.schema()

    async def schema(self) -> Schema:
        relation = await self._look()
        by_name = {column.name: column.type for column in relation.columns}
        return Schema.of([(name, by_name[name]) for name in self._output(relation)])

    def with_columns(self, columns: Sequence[str]) -> Self:
        copy_ = copy.copy(self)
        copy_._columns = tuple(columns)
        return copy_

    def with_filter(self, condition: Typed) -> Self | None:
        """Only conditions on columns that PostgreSQL compares as DataFlare does."""
        relation = self._relation
        if relation is None or not all(relation.column(name).exact for name in condition.columns):
            return None
        spelled = condition.to_sql("postgres")
        if spelled is None or spelled.text.count("?") != len(spelled.params):
            return None
        copy_ = copy.copy(self)
        copy_._filters = (*self._filters, spelled)
        return copy_

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        relation = await self._look()
        if self.config.incremental is not None:
            state = State.from_json(carried) if carried is not None else State()
            return [Split(_INCREMENTAL, {"state": state.to_json()})]
        listed, _ = await asyncio.gather(in_thread(self._list, relation), in_thread(load_driver))
        return listed

    def reads_all(self) -> bool:
        return self.config.incremental is None

    def declarations(self) -> Declarations | None:
        relation = self._relation
        if relation is None:
            return None
        return declarations_of(relation, self._output(relation), full=self.reads_all())

    def cut_by(self) -> str:
        sharding = self.config.sharding
        return "" if sharding is None else sharding.label("the key")

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        relation = await self._look()
        reading = Reading(
            server=self._server,
            step=self.context.step,
            relation=relation,
            output=self._output(relation),
            filters=self._filters,
            rows_max=self.config.batch_size,
            snapshot=None if self.config.incremental is not None else self._snapshot,
        )
        start = position.value if position is not None else {}
        if self.config.incremental is not None:
            state = State.from_json(start or split.data["state"])
            return IncrementalReader(reading, self.config.incremental, state)
        if relation.key and "block" not in split.data:
            return KeyReader(reading, split.data, start)
        return StreamReader(reading, split.data, start)

    def carries(self) -> bool:
        return self.config.incremental is not None

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        position = positions.get(_INCREMENTAL)
        return None if position is None else State.from_json(position.value).finished().to_json()

    async def inspect(self) -> Mapping[str, str]:
        """Facts about the server and the relation, for `dataflare check`. Raises an error if it
        cannot be read."""
        relation = await self._look()
        return await in_thread(source_facts, self._server, relation, self._replay()[0])

    async def aclose(self) -> None:
        await in_thread(self._snapshot.close)

    @property
    def _server(self) -> Server:
        return Server.of(self.config)

    async def _look(self) -> Relation:
        if self._relation is None:
            self._relation = await in_thread(self._find)
        return self._relation

    def _find(self) -> Relation:
        try:
            server = self._server
            db = server.connect(f"dataflare {self.context.step}")
            try:
                with postgres_errors(server.label, self._label):
                    server.begin(db, "read only")
                    relation = find_relation(db, server, self.config, self.contract)
            finally:
                db.close()
            self._output(relation)
            if self.config.incremental is not None:
                check_incremental(relation, self.config.incremental)
        except DataFlareError as error:
            raise error.at(step=self.context.step) from error.__cause__
        return relation

    @property
    def _label(self) -> str:
        return "the query" if self.config.table is None else f"table '{self.config.table}'"

    def _output(self, relation: Relation) -> tuple[str, ...]:
        """The output columns: those of the config, or of the pushed projection."""
        names = self._columns if self._columns is not None else self.config.columns
        if names is None:
            return relation.names
        return tuple(relation.column(name).name for name in names)

    def _list(self, relation: Relation) -> Sequence[Split]:
        """The parts, computed in the snapshot from which they will be read."""
        server = self._server
        try:
            snapshot = self._snapshot.take(server, f"dataflare {self.context.step} (snapshot)")
            db = server.connect(f"dataflare {self.context.step}")
            try:
                with postgres_errors(server.label, relation.label):
                    server.begin(db, "isolation level repeatable read read only", snapshot)
                    return make_splits(db, relation, self.config.sharding)
            finally:
                db.close()
        except DataFlareError as error:
            raise error.at(step=self.context.step) from error.__cause__
