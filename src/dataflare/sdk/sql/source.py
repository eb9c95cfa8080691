"""A source of tables: a full read in parts that are read and resumed separately, or only what is new since
the last run. A connector finds the relation and opens the readers."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from dataflare.errors import ConfigError
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
from dataflare.sdk.sql.config import FileReadOptions, FileSharding, ReadOptions
from dataflare.sdk.sql.incremental import State
from dataflare.sdk.sql.names import at_step
from dataflare.sdk.sql.relation import Relation
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.expr import Typed
    from dataflare.expr.sql import SqlText
    from dataflare.expr.typed import Dialect

R = TypeVar("R", bound=Relation[Any])
ONE = "rows-0"
UNCHOSEN_TABLE: Mapping[str, Any] = MappingProxyType({"table": "-"})
"""For `SupportsCatalog.unchosen`."""
_INCREMENTAL = "incremental"
_RANGES = 8


class TableSource(SourceConnector, SupportsProjection, SupportsFilter, Generic[R]):
    """Rows of a table, view or query. Methods that are not async may block."""

    contract: Schema | None = None
    """The step's `schema`: the types its columns are read as."""
    local: ClassVar[bool] = False
    """Whether looking at the relation needs no network."""
    dialect: ClassVar[Dialect]
    """The name of the SQL in which conditions are pushed down."""

    config: ReadOptions

    def __init__(self, config: Any, context: Any) -> None:
        super().__init__(config, context)
        self._relation: R | None = None
        self._columns: tuple[str, ...] | None = None
        self._filters: tuple[SqlText, ...] = ()

    # -- for subclasses ----------------------------------------------------------------------------

    @abstractmethod
    def find(self) -> R:
        """The relation in the config. Raises an error if it cannot be read, or not incrementally."""

    @abstractmethod
    def cut(self, relation: R) -> Sequence[Split]:
        """The parts of a full read."""

    @abstractmethod
    def open_part(self, relation: R, split: Split, start: Mapping[str, Any]) -> SplitReader:
        """A reader of a part. start: JSON of its position; empty for the beginning."""

    @abstractmethod
    def open_new(self, relation: R, state: State) -> SplitReader:
        """A reader of the rows since the last run."""

    @abstractmethod
    def compares(self, relation: R, name: str) -> bool:
        """Whether the database compares the values of a column as DataFlare does."""

    def replay_of(self, relation: R | None) -> tuple[Replay, str]:
        """Whether a full read of a table continues where it ended. relation: None before it was found."""
        if relation is not None and not relation.key:
            return Replay.NONE, f"{relation.label} has no key to continue from"
        return Replay.BY_KEY, "an unfinished range is read again from its last key"

    # -- the source --------------------------------------------------------------------------------

    def capabilities(self) -> SourceCapabilities:
        replay, reason = self._replay()
        return SourceCapabilities(
            replay=replay, replay_reason=reason, bounded=True, local=self.local, chunks=True
        )

    def _replay(self) -> tuple[Replay, str]:
        if self.config.incremental is not None:
            return Replay.BY_KEY, "rows are read again from the last cursor value"
        if self.config.query is not None:
            return Replay.NONE, "a query may give other rows, or another order, each time"
        return self.replay_of(self._relation)

    async def validate(self) -> None:
        await self.schema()

    async def schema(self) -> Schema:
        relation = await self.look()
        return Schema.of([(name, relation.column(name).type) for name in self.output(relation)])

    def with_columns(self, columns: Sequence[str]) -> Self:
        copy_ = copy.copy(self)
        copy_._columns = tuple(columns)
        return copy_

    def with_filter(self, condition: Typed) -> Self | None:
        relation = self._relation
        if relation is None or not all(self.compares(relation, n) for n in condition.columns):
            return None
        spelled = condition.to_sql(self.dialect)
        if spelled is None or spelled.text.count("?") != len(spelled.params):
            return None
        copy_ = copy.copy(self)
        copy_._filters = (*self._filters, spelled)
        return copy_

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        relation = await self.look()
        if self.config.incremental is not None:
            state = State.from_json(carried) if carried is not None else State()
            return [Split(_INCREMENTAL, {"state": state.to_json()})]
        with at_step(self.context.step):
            return await in_thread(self.cut, relation)

    def reads_all(self) -> bool:
        return self.config.incremental is None

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        relation = await self.look()
        start = position.value if position is not None else {}
        if self.config.incremental is None:
            return await in_thread(self.open_part, relation, split, start)
        state = State.from_json(start or split.data["state"])
        return await in_thread(self.open_new, relation, state)

    def carries(self) -> bool:
        return self.config.incremental is not None

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        position = positions.get(_INCREMENTAL)
        return None if position is None else State.from_json(position.value).finished().to_json()

    async def look(self) -> R:
        """The relation, found once."""
        if self._relation is None:
            with at_step(self.context.step):
                relation = await in_thread(self.find)
                self.output(relation)
            self._relation = relation
        return self._relation

    @property
    def label(self) -> str:
        """What is read, for messages."""
        return "the query" if self.config.table is None else f"table '{self.config.table}'"

    def output(self, relation: R) -> tuple[str, ...]:
        """The output columns: those of the config, or of the pushed projection."""
        names = self._columns if self._columns is not None else self.config.columns
        if names is None:
            return relation.names
        return tuple(relation.column(name).name for name in names)


class FileTableSource(TableSource[R]):
    """Rows of a table, view or query of a database file; a table is read by ranges of its rowid, or by the
    parts that the user chose."""

    config: FileReadOptions
    local = True
    rows_for_ranges: ClassVar[int]
    """The number of rowids from which on a table is read in several ranges."""

    @abstractmethod
    def rowids(self, relation: R) -> tuple[int, int] | None:
        """The least and the greatest rowid; None for a table without rows."""

    @abstractmethod
    def cut_by_column(self, relation: R, sharding: FileSharding) -> Sequence[Split]:
        """The parts by a column, or by a hash."""

    @property
    def path(self) -> Path:
        return self.context.path(self.config.path)

    def cut_by(self) -> str:
        sharding = self.config.sharding
        return "" if sharding is None else sharding.label("rowid")

    def undivided(self, relation: R, sharding: FileSharding) -> ConfigError | None:
        """The error if the relation cannot be divided so."""
        return None if relation.rowid else no_parts(relation.label, "rowid", "leave 'sharding' out")

    def cut(self, relation: R) -> Sequence[Split]:
        sharding = self.config.sharding
        if sharding is None and not relation.rowid:
            return [Split(ONE, {})]
        if sharding is not None:
            if (error := self.undivided(relation, sharding)) is not None:
                raise error
            if sharding.column is not None or sharding.by == "hash":
                return self.cut_by_column(relation, sharding)
        rowids = self.rowids(relation)
        if rowids is None:
            return [Split(ONE, {"from": 0, "to": -1})]
        low, high = rowids
        count = _RANGES if high + 1 - low >= self.rows_for_ranges else 1
        if sharding is not None:
            count = min(sharding.splits or 1, high + 1 - low)
        edges = [low + (high + 1 - low) * i // count for i in range(count + 1)]
        return [
            Split(f"rows-{i}", {"from": edges[i], "to": edges[i + 1] - 1}) for i in range(count)
        ]


def no_parts(label: str, lacks: str, help_: str) -> ConfigError:
    return ConfigError(f"{label} has no {lacks} to divide by", code="E0413", help=help_)
