"""Read a table or a query of an SQLite file, page by page.

Always true: no lock is held between two pages, so writers of other programs, or of the same run,
never wait longer than one page takes. A table is read by ranges of its rowid or in the order of its
primary key; a relation with neither (a view, a query) is copied once to a temporary table of the
connection, and read from there.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from dataflare.connectors.sqlite.config import SqliteSourceConfig
from dataflare.connectors.sqlite.connection import Opened
from dataflare.connectors.sqlite.errors import sqlite_errors
from dataflare.connectors.sqlite.incremental import IncrementalReader, check_incremental
from dataflare.connectors.sqlite.reader import KeyReader, Reading, SpoolReader
from dataflare.connectors.sqlite.relation import Relation, find_relation
from dataflare.connectors.sqlite.shards import cut
from dataflare.errors import ConfigError, DataFlareError, SystemError_
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk.source import (
    Replay,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
    SupportsFilter,
    SupportsProjection,
)
from dataflare.sdk.sql.config import FileSharding
from dataflare.sdk.sql.incremental import State
from dataflare.sdk.sql.names import missing_file, quoted
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.expr import Typed
    from dataflare.expr.sql import SqlText

_RANGES = 8
_ROWS_FOR_RANGES = 100_000
_INCREMENTAL = "incremental"


class SqliteSource(SourceConnector, SupportsProjection, SupportsFilter):
    """Rows of a table, view or query."""

    type = "sqlite"
    Config = SqliteSourceConfig
    summary = "Reads a table or a query of an SQLite database file."
    example = """\
orders:
  type: sqlite
  config: {path: shop.db, table: orders, incremental: {column: updated_at}}
"""
    contract: Schema | None = None
    """The step's `schema`: the types its columns are read as."""

    config: SqliteSourceConfig

    def __init__(self, config: SqliteSourceConfig, context: Any) -> None:
        super().__init__(config, context)
        self._relation: Relation | None = None
        self._columns: tuple[str, ...] | None = None
        self._filters: tuple[SqlText, ...] = ()

    def capabilities(self) -> SourceCapabilities:
        replay, reason = self._replay()
        return SourceCapabilities(
            replay=replay, replay_reason=reason, bounded=True, local=True, chunks=True
        )

    def _replay(self) -> tuple[Replay, str]:
        if self.config.incremental is not None:
            return Replay.BY_KEY, "rows are read again from the last cursor value"
        if self.config.query is not None:
            return Replay.NONE, "a query may give other rows, or another order, each time"
        if self._relation is not None and not self._relation.key:
            return Replay.NONE, f"{self._relation.label} has no key to continue from"
        return Replay.BY_KEY, "an unfinished range is read again from its last rowid or key"

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
        """Only conditions on columns that SQLite compares as DataFlare does: declared numbers and
        text."""
        relation = self._relation
        if relation is None or not all(relation.column(name).exact for name in condition.columns):
            return None
        spelled = condition.to_sql("sqlite")
        if spelled is None:
            return None
        copy_ = copy.copy(self)
        copy_._filters = (*self._filters, spelled)
        return copy_

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        relation = await self._look()
        if self.config.incremental is not None:
            state = State.from_json(carried) if carried is not None else State()
            return [Split(_INCREMENTAL, {"state": state.to_json()})]
        sharding = self.config.sharding
        if sharding is None:
            if not relation.rowid:
                return [Split("rows-0", {})]
        elif not relation.key or (sharding.column is None and not relation.rowid):
            lacks = "rowid" if relation.key else "rowid or key"
            raise ConfigError(
                f"{relation.label} has no {lacks} to divide by",
                code="E0413",
                step=self.context.step,
                help="name a 'column' in 'sharding'" if relation.key else "leave 'sharding' out",
            )
        elif sharding.column is not None or sharding.by == "hash":
            return await in_thread(self._cut, relation, sharding)
        return await in_thread(self._ranges, relation)

    def reads_all(self) -> bool:
        return self.config.incremental is None

    def cut_by(self) -> str:
        sharding = self.config.sharding
        return "" if sharding is None else sharding.label("rowid")

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        relation = await self._look()
        return await in_thread(self._open, relation, split, position)

    def carries(self) -> bool:
        return self.config.incremental is not None

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        position = positions.get(_INCREMENTAL)
        return None if position is None else State.from_json(position.value).finished().to_json()

    async def _look(self) -> Relation:
        if self._relation is None:
            self._relation = await in_thread(self._find)
        return self._relation

    def _find(self) -> Relation:
        try:
            opened = self._connect()
            try:
                with sqlite_errors(self.path, self._label):
                    relation = find_relation(opened.db, self.path, self.config, self.contract)
            finally:
                opened.close()
            self._output(relation)
            if self.config.incremental is not None:
                check_incremental(relation, self.config.incremental)
        except DataFlareError as error:
            raise error.at(step=self.context.step) from error.__cause__
        return relation

    @property
    def path(self) -> Any:
        return self.context.path(self.config.path)

    @property
    def _label(self) -> str:
        return "the query" if self.config.table is None else f"table '{self.config.table}'"

    def _connect(self) -> Opened:
        path = self.path
        if not path.exists():
            raise missing_file(path)
        if path.is_dir():
            raise SystemError_(
                f"{path} is a folder, not a database", code="E0602", help="name a file in it"
            )
        if not os.access(path, os.R_OK):
            raise SystemError_(
                f"permission denied: {path}",
                code="E0602",
                help="get the permission to read and write there, or choose another place",
            )
        with sqlite_errors(path, "opening"):
            return Opened(path, mode="ro", busy_timeout_s=self.config.busy_timeout)

    def _output(self, relation: Relation) -> tuple[str, ...]:
        """The output columns: those of the config, or of the pushed projection."""
        names = self._columns if self._columns is not None else self.config.columns
        if names is None:
            return relation.names
        return tuple(relation.column(name).name for name in names)

    def _cut(self, relation: Relation, sharding: FileSharding) -> Sequence[Split]:
        opened = self._connect()
        try:
            with sqlite_errors(self.path, relation.label):
                return cut(opened.db, relation, sharding)
        except DataFlareError as error:
            raise error.at(step=self.context.step) from error.__cause__
        finally:
            opened.close()

    def _ranges(self, relation: Relation) -> Sequence[Split]:
        opened = self._connect()
        try:
            rowid = quoted(relation.key[0])
            with sqlite_errors(self.path, relation.label):
                low, high = opened.db.frame(
                    f"select (select min({rowid}) from {relation.source}), "
                    f"(select max({rowid}) from {relation.source})"
                ).row(0)
        finally:
            opened.close()
        if low is None:
            return [Split("rows-0", {"from": 0, "to": 0})]
        low, high = int(low), int(high)
        count = _RANGES if high - low >= _ROWS_FOR_RANGES else 1
        if self.config.sharding is not None:
            count = min(self.config.sharding.splits or 1, high + 1 - low)
        edges = [low + (high + 1 - low) * i // count for i in range(count + 1)]
        return [
            Split(f"rows-{i}", {"from": edges[i], "to": edges[i + 1] - 1}) for i in range(count)
        ]

    def _open(self, relation: Relation, split: Split, position: Position | None) -> SplitReader:
        reading = Reading(
            path=self.path,
            step=self.context.step,
            relation=relation,
            output=self._output(relation),
            filters=self._filters,
            rows_max=self.config.batch_size,
        )
        start = position.value if position is not None else {}
        if self.config.incremental is not None:
            state = State.from_json(start or split.data["state"])
            return IncrementalReader(reading, self._connect(), self.config.incremental, state)
        if relation.key:
            return KeyReader(reading, self._connect(), split.data, start)
        return SpoolReader(reading, self._connect(), start)
