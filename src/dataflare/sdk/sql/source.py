"""A source of tables: a full read in parts that are read and resumed separately, or only what is new since
the last run. A connector finds the relation and opens the readers."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from dataflare.errors import ConfigError
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk.catalog import Entry, SupportsCatalog
from dataflare.sdk.source import (
    Replay,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
    SupportsFilter,
    SupportsProjection,
)
from dataflare.sdk.sql.config import (
    FileReadOptions,
    FileSharding,
    Incremental,
    ReadOptions,
    ServerReadOptions,
)
from dataflare.sdk.sql.incremental import State
from dataflare.sdk.sql.names import at_step
from dataflare.sdk.sql.relation import Reading, Relation
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.expr import Typed
    from dataflare.expr.sql import SqlText
    from dataflare.expr.typed import Dialect

R = TypeVar("R", bound=Relation[Any])
T = TypeVar("T")
ONE = "rows-0"
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
    def open_new(self, relation: R, config: Incremental, state: State) -> SplitReader:
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

    def primary_key(self) -> tuple[str, ...]:
        relation = self._relation
        if relation is None or not set(relation.primary) <= set(self.output(relation)):
            return ()
        return relation.primary

    def reads_all(self) -> bool:
        return self.config.incremental is None

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        relation = await self.look()
        start = position.value if position is not None else {}
        config = self.config.incremental
        if config is None:
            return await in_thread(self.open_part, relation, split, start)
        state = State.from_json(start or split.data["state"])
        return await in_thread(self.open_new, relation, config, state)

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

    def catalog_key(self) -> tuple[str, ...]:
        """The key that the catalogue has, if its columns are read. Called after `look`."""
        relation = self._relation
        if relation is None:
            return ()
        key = relation.primary or relation.key
        return key if set(key) <= set(self.output(relation)) else ()

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


class DatabaseSource(TableSource[R]):
    """Rows of a database that is reached by connections."""

    @abstractmethod
    def connect(self) -> Any:
        """A connection, which has `close`."""

    @abstractmethod
    def errors(self, subject: str) -> AbstractContextManager[None]:
        """Convert the library's exceptions inside into DataFlare's errors. subject: the table or the operation."""

    @abstractmethod
    def find_in(self, db: Any) -> R:
        """The relation in the config. Raises an error if it cannot be read."""

    @abstractmethod
    def check_incremental(self, relation: R, config: Incremental) -> None:
        """Raises an error for a cursor column that does not grow, and for settings that do not fit it."""

    @abstractmethod
    def reading(self, relation: R) -> Reading:
        """What readers get: `read_options` and what else they need."""

    def read_options(self, relation: R) -> dict[str, Any]:
        """The fields of a `Reading`."""
        return {
            "step": self.context.step,
            "relation": relation,
            "output": self.output(relation),
            "filters": self._filters,
            "rows_max": self.config.batch_size,
        }

    def find(self) -> R:
        relation: R = self.with_db(self.label, self.find_in)
        if self.config.incremental is not None:
            self.check_incremental(relation, self.config.incremental)
        return relation

    def with_db(self, subject: str, ask: Callable[[Any], T]) -> T:
        """The result of `ask` with a connection."""
        db = self.connect()
        try:
            with self.errors(subject):
                return ask(db)
        finally:
            db.close()


class SupportsTables(DatabaseSource[R], SupportsCatalog):
    """A source that can list the tables and views of its database."""

    unchosen = MappingProxyType({"table": "-"})

    @abstractmethod
    def list_tables(self, db: Any) -> Sequence[Entry]:
        """The tables and views."""

    async def catalog(self) -> Sequence[Entry]:
        return await in_thread(self.with_db, "its tables", self.list_tables)


class ServerTableSource(DatabaseSource[R]):
    """Rows of a table, view or query of a server."""

    config: ServerReadOptions
    key_noun: ClassVar[str] = "the key"
    """By what a table is divided, for the user."""

    @property
    @abstractmethod
    def server(self) -> Any:
        """How to connect; `label` is for messages."""

    @abstractmethod
    def cut_in(self, db: Any, relation: R) -> Sequence[Split]:
        """The parts of a full read."""

    @abstractmethod
    def server_facts(self, db: Any) -> Mapping[str, str]:
        """Version, user, encryption and similar, for `dataflare check`."""

    def connect(self) -> Any:
        return self.server.connect(f"dataflare {self.context.step}")

    def cut(self, relation: R) -> Sequence[Split]:
        return self.with_db(relation.label, lambda db: self.cut_in(db, relation))

    def cut_by(self) -> str:
        sharding = self.config.sharding
        return "" if sharding is None else sharding.label(self.key_noun)

    async def inspect(self) -> Mapping[str, str]:
        """Facts about the server and the relation, for `dataflare check`. Raises an error if it
        cannot be read."""
        relation = await self.look()
        facts = dict(await in_thread(self.with_db, relation.label, self.server_facts))
        facts |= {"reads": relation.label, "columns": str(len(relation.columns))}
        if relation.is_table:
            facts |= self.table_facts(relation)
        return {**facts, "replay": self._replay()[0].value.replace("_", " ")}

    def table_facts(self, relation: R) -> Mapping[str, str]:
        key = ", ".join(relation.key) or "none: read again from the start after a failure"
        return {"rows": f"about {relation.rows:,}", "key": key}


class FileTableSource(DatabaseSource[R]):
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
