"""Read a table or a query of a DuckDB file as Arrow; the file is not opened for writing."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dataflare.connectors.duckdb.connection import DuckConnection
from dataflare.connectors.duckdb.errors import duckdb_errors
from dataflare.connectors.duckdb.incremental import IncrementalReader, check_incremental
from dataflare.connectors.duckdb.reader import Reading, RowidReader, StreamReader
from dataflare.connectors.duckdb.relation import Relation, find_relation
from dataflare.connectors.duckdb.shards import cut
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
from dataflare.sdk.sql.config import FileSharding, TableSourceConfig
from dataflare.sdk.sql.incremental import State
from dataflare.sdk.sql.names import holds_data, missing_file
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.expr import Typed
    from dataflare.expr.sql import SqlText

_RANGES = 8
_ROWS_FOR_RANGES = 1_000_000
_INCREMENTAL = "incremental"


class DuckdbSource(SourceConnector, SupportsProjection, SupportsFilter):
    """Rows of a table, view or query."""

    type = "duckdb"
    Config = TableSourceConfig
    summary = "Reads a table or a query of a DuckDB database file."
    example = """\
orders:
  type: duckdb
  config: {path: shop.duckdb, table: orders, incremental: {column: updated_at}}
"""
    contract: Schema | None = None
    """The step's `schema`: the types its columns are read as."""

    config: TableSourceConfig

    def __init__(self, config: TableSourceConfig, context: Any) -> None:
        super().__init__(config, context)
        self._relation: Relation | None = None
        self._columns: tuple[str, ...] | None = None
        self._filters: tuple[SqlText, ...] = ()

    @property
    def path(self) -> Path:
        return self.context.path(self.config.path)

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
        if self._relation is not None and not self._relation.rowid:
            return Replay.NONE, f"{self._relation.label} has no rowid to continue from"
        return Replay.BY_KEY, "an unfinished range is read again from its last rowid"

    async def validate(self) -> None:
        await self.schema()

    async def schema(self) -> Schema:
        relation = await self._look()
        return Schema.of([(name, relation.column(name).type) for name in self._output(relation)])

    def with_columns(self, columns: Sequence[str]) -> Self:
        copy_ = copy.copy(self)
        copy_._columns = tuple(columns)
        return copy_

    def with_filter(self, condition: Typed) -> Self | None:
        """Not conditions on columns that the step's `schema` casts, because DuckDB would compare
        the values before the cast, and not on columns that are read as text."""
        relation = self._relation
        if relation is None:
            return None
        for name in condition.columns:
            column = relation.column(name)
            if column.cast or (column.type.is_text and column.declared != "VARCHAR"):
                return None
        spelled = condition.to_sql("duckdb")
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
        if not relation.rowid:
            if self.config.sharding is not None:
                raise ConfigError(
                    f"{relation.label} has no rowid to divide by",
                    code="E0413",
                    step=self.context.step,
                    help="leave 'sharding' out",
                )
            return [Split("rows-0", {})]
        sharding = self.config.sharding
        if sharding is not None and (sharding.column is not None or sharding.by == "hash"):
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
            db = self._connect()
            try:
                with duckdb_errors(self.path, self._label):
                    relation = find_relation(db, self.path, self.config, self.contract)
                    if self.config.incremental is not None:
                        check_incremental(db, relation, self.config.incremental)
            finally:
                db.close()
            self._output(relation)
        except DataFlareError as error:
            raise error.at(step=self.context.step) from error.__cause__
        return relation

    @property
    def _label(self) -> str:
        return "the query" if self.config.table is None else f"table '{self.config.table}'"

    def _connect(self) -> DuckConnection:
        path = self.path
        if not path.is_dir() and not holds_data(path):
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
        return DuckConnection(
            path,
            write=False,
            busy_timeout_s=self.config.busy_timeout,
            outside=self.context.policy.folders is None,
        )

    def _output(self, relation: Relation) -> tuple[str, ...]:
        """The output columns: those of the config, or of the pushed projection."""
        names = self._columns if self._columns is not None else self.config.columns
        if names is None:
            return relation.names
        return tuple(relation.column(name).name for name in names)

    def _cut(self, relation: Relation, sharding: FileSharding) -> Sequence[Split]:
        db = self._connect()
        try:
            with duckdb_errors(self.path, relation.label):
                return cut(db, relation, sharding)
        except DataFlareError as error:
            raise error.at(step=self.context.step) from error.__cause__
        finally:
            db.close()

    def _ranges(self, relation: Relation) -> Sequence[Split]:
        db = self._connect()
        try:
            with duckdb_errors(self.path, relation.label):
                (high,) = db.rows(f"select max(rowid) from {relation.source}")[0]
        finally:
            db.close()
        if high is None:
            return [Split("rows-0", {"from": 0, "to": -1})]
        count = _RANGES if high + 1 >= _ROWS_FOR_RANGES else 1
        if self.config.sharding is not None:
            count = min(self.config.sharding.splits or 1, high + 1)
        edges = [(high + 1) * i // count for i in range(count + 1)]
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
        db = self._connect()
        try:
            if self.config.incremental is not None:
                state = State.from_json(start or split.data["state"])
                return IncrementalReader(reading, db, self.config.incremental, state)
            if relation.rowid:
                return RowidReader(reading, db, split.data, start)
            return StreamReader(reading, db, start)
        except BaseException:
            db.close()
            raise
