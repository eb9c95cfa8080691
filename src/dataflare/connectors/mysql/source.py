"""Read a table or a query of a MySQL or MariaDB database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from dataflare.connectors.mysql.checksums import DIGESTS, texts
from dataflare.connectors.mysql.config import MysqlSourceConfig
from dataflare.connectors.mysql.connection import Db, Server, literal
from dataflare.connectors.mysql.errors import mysql_errors
from dataflare.connectors.mysql.facts import server_facts
from dataflare.connectors.mysql.incremental import IncrementalReader, check_incremental
from dataflare.connectors.mysql.reader import KeyReader, Reading, StreamReader
from dataflare.connectors.mysql.relation import Column, Relation, backticked, find_relation
from dataflare.connectors.mysql.shards import make_splits
from dataflare.connectors.mysql.tables import find_place, names, tables_and_views
from dataflare.model.progress import Position, Split
from dataflare.sdk import resyncs
from dataflare.sdk.catalog import Entry
from dataflare.sdk.logs import KeptLog, SupportsLog
from dataflare.sdk.source import SplitReader, SupportsCommits
from dataflare.sdk.sql.changes import Committed
from dataflare.sdk.sql.checksums import SupportsChecksums
from dataflare.sdk.sql.config import Incremental
from dataflare.sdk.sql.incremental import State
from dataflare.sdk.sql.read_again import states
from dataflare.sdk.sql.relation import with_values
from dataflare.sdk.sql.table_streams import NewTables, TableStreams
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.connectors.mysql.cdc.following import Followed
    from dataflare.connectors.mysql.cdc.source import ChangeSource
    from dataflare.expr import Typed

_ROWS_KEPT = 10_000_000
"""Up to so many rows the hashes of rows are kept in a temporary table of the server, about 100 bytes each. For more
rows the server computes each hash three times, which takes twice as long (4.1 to 5.9 s against 2.0 to 2.2 s for 200,000
rows of MariaDB)."""


class MysqlSource(
    TableStreams[Relation], SupportsChecksums[Relation], SupportsCommits, SupportsLog
):
    """Rows of a table, view or query, or a table and its changes."""

    type = "mysql"
    Config = MysqlSourceConfig
    summary = "Read a table or a query of a MySQL or MariaDB database"
    example = """\
type: mysql
config:
  connection_string: mysql://reader@localhost:3306/shop
  table: orders
"""
    dialect = "mysql"
    digests = DIGESTS

    config: MysqlSourceConfig

    finds_new_fields = True
    resyncs = True

    def __init__(self, config: MysqlSourceConfig, context: Any) -> None:
        super().__init__(config, context)
        self.finds_new_fields = config.cdc is not None
        self._log: ChangeSource | None = None
        self._committed = Committed()
        self._table_names: frozenset[str] = frozenset()
        """Those that were there at the last search for new tables."""

    @property
    def log(self) -> ChangeSource | None:
        options = self.config.cdc
        if options is not None and self._log is None:
            from dataflare.connectors.mysql.cdc.source import ChangeSource

            stops = options.stop is not None or self.in_batch
            self._log = ChangeSource(
                options=options, stops=stops, copies=options.snapshot == "initial",
                is_preview=self.context.folder is None, facts=tuple(options.metadata),
            )  # fmt: skip
        return self._log

    def _relation_in(self, db: Db) -> Relation:
        return find_relation(db, self.server, self.config, self.contract)

    @property
    def server(self) -> Server:
        return Server.of(self.config)

    def errors(self, subject: str) -> AbstractContextManager[None]:
        return mysql_errors(self.server.label, subject)

    def list_tables(self, db: Db) -> Sequence[Entry]:
        return tables_and_views(db, self.server.database)

    def new_tables(self, db: Db, take: Callable[[Relation], None] | None = None) -> NewTables:
        """As of the base. The names alone are asked for first: the server need not open its tables for them."""
        there = frozenset(names(db, self.server.database))
        if there == self._table_names:
            return NewTables()
        found = super().new_tables(db, take)
        self._table_names = there
        return found

    def check_log(self, db: Db) -> None:
        if self.log is not None:
            self.log.check_server(db, self.server.label)

    def find_in(self, db: Db) -> Relation:
        self.check_log(db)
        return self.find_table(db)

    def find_table(self, db: Db) -> Relation:
        relation = self._relation_in(db)
        if self.log is not None:
            place = find_place(db, self.server.database, self.config.table or "")
            assert place is not None
            whole = self.log.with_facts(relation, self.context.step)
            self.log.look(db, relation, place, self.output(whole), self.server.label)
            return whole
        return relation

    def log_name(self) -> str:
        assert self.log is not None
        assert self.log.looked is not None
        return self.log.looked.place.label

    def tables_begun(self, position: Mapping[str, Any]) -> Set[str]:
        from dataflare.connectors.mysql.cdc.standing import tables_begun

        return tables_begun(position)

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        log = self.log
        if log is None:
            return await super().splits(carried)
        names = [each.log_name() for _, each in await self.followed_members()]
        label = self.server.label
        return [
            await in_thread(
                self.with_db, "its log", lambda db: log.split(db, carried, label, names)
            )
        ]

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        log, server, step = self.log, self.server, self.context.step
        if log is None:
            return await super().open(split, position)
        followed = [
            each.followed(stream, self.not_truncated.get(stream), self.not_ranged.get(stream))
            for stream, each in await self.followed_members()
        ]
        return await in_thread(
            self.with_db,
            "its log",
            lambda db: log.reader(
                db,
                server,
                step,
                followed,
                split,
                position,
                self._committed,
                self.context.folder,
                self.new_tables,
            ),
        )

    def followed(
        self, stream: str | None, not_truncated: str | None, not_ranged: str | None
    ) -> Followed:
        """Its table, as a reader of changes gets it. Called after `look`. The others: as in Followed."""
        assert self._relation is not None
        assert self.log is not None
        return self.log.followed(
            stream, self.reading(self._relation), self._relation_in, gives_new=self.gives_new(),
            not_truncated=not_truncated, not_ranged=not_ranged,
        )  # fmt: skip

    def range_of(self, stream: str | None, condition: Typed) -> str | None:
        member = self if stream is None else (self._members or {})[stream]
        relation = member._relation
        if relation is None or not all(member.compares(relation, n) for n in condition.columns):
            return None
        spelled = condition.to_sql(self.dialect)
        if spelled is None or spelled.text.count("?") != len(spelled.params):
            return None
        if any("?" in name for name in relation.key):
            return None
        return with_values(spelled, literal)

    async def committed(self, positions: Mapping[str, Position]) -> None:
        if self.log is not None:
            for position in positions.values():
                self._committed.position = position.value
                await in_thread(self._tell_resyncs, position.value)

    def _tell_resyncs(self, position: Mapping[str, Any]) -> None:
        from dataflare.connectors.mysql.cdc.standing import ranges_done, tables_read

        folder = self.context.folder
        if folder is None:
            return
        if asked := resyncs.asked(folder):
            resyncs.tell(folder, states(tables_read(position), asked, self.context.step))
        for id_ in ranges_done(position):
            resyncs.range_done(folder, id_)

    async def kept_log(self, position: Mapping[str, Any]) -> KeptLog | None:
        if self.log is None:
            return None
        from dataflare.connectors.mysql.cdc.lag import kept_log

        server, table = self.server, self.config.table or ""
        return await in_thread(
            self.with_db,
            "the state of its log",
            lambda db: kept_log(db, position, server.label, table),
        )

    async def drop_log(self) -> list[str]:
        """The server keeps nothing for a reader."""
        return []

    def check_incremental(self, relation: Relation, config: Incremental) -> None:
        check_incremental(relation, config)

    def compares(self, relation: Relation, name: str) -> bool:
        """Numbers. Text is compared by its collation, and a date such as 0000-00-00 is a row error, not a row to
        leave out."""
        column = relation.column(name)
        return column.keyed and (column.type.is_integer or column.type.name == "decimal")

    def cut_in(self, db: Db, relation: Relation) -> Sequence[Split]:
        return make_splits(db, relation, self.config.sharding)

    def server_facts(self, db: Db) -> Mapping[str, str]:
        facts = server_facts(db)
        return facts if self.log is None else {**facts, **self.log.log_facts(db)}

    def reading(self, relation: Relation) -> Reading:
        return Reading(**self.read_options(relation), server=self.server)

    def texts(self, column: Column) -> Mapping[str, str]:
        return texts(column)

    def identifier(self, name: str) -> str:
        return backticked(name)

    def asked(self, db: Db, relation: Relation, sql: Callable[[str], str]) -> list[tuple[Any, ...]]:
        if relation.rows <= _ROWS_KEPT:
            db.run("set session optimizer_switch = 'derived_merge=off'")
        return db.rows(sql(self.reading(relation).where()))

    def open_part(self, relation: Relation, split: Split, start: Mapping[str, Any]) -> SplitReader:
        reader = KeyReader if relation.key else StreamReader
        return reader(self.reading(relation), split.data, start)

    def open_new(self, relation: Relation, config: Incremental, state: State) -> SplitReader:
        return IncrementalReader(self.reading(relation), config, state)
