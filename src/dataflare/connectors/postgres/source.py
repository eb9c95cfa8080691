"""Read a table or a query of a PostgreSQL database.

Always true: all parts of a full read see one snapshot of the database, as long as this process and
the server live; after a crash the unfinished parts continue from their last key in a new snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from dataflare.connectors.postgres.catalog import Connection, tables_and_views
from dataflare.connectors.postgres.cdc.following import Confirmed, Followed
from dataflare.connectors.postgres.cdc.objects import (
    check_server,
    drop_publication,
    drop_slot,
    kept_log,
)
from dataflare.connectors.postgres.cdc.place import Place
from dataflare.connectors.postgres.cdc.reader import ChangeReader
from dataflare.connectors.postgres.cdc.resyncing import states as resync_states
from dataflare.connectors.postgres.cdc.source import ChangeSource, end_of_log
from dataflare.connectors.postgres.checksums import DIGESTS, own_text, texts
from dataflare.connectors.postgres.config import PostgresSourceConfig
from dataflare.connectors.postgres.connection import Server, load_driver
from dataflare.connectors.postgres.errors import postgres_errors
from dataflare.connectors.postgres.facts import server_facts
from dataflare.connectors.postgres.incremental import IncrementalReader, check_incremental
from dataflare.connectors.postgres.kept import declarations_of
from dataflare.connectors.postgres.reader import KeyReader, Reading, StreamReader, literal
from dataflare.connectors.postgres.relation import Column, Relation, find_relation
from dataflare.connectors.postgres.shards import make_splits
from dataflare.connectors.postgres.snapshot import SharedSnapshot
from dataflare.model.progress import Position, Split
from dataflare.sdk import resyncs
from dataflare.sdk.catalog import Entry
from dataflare.sdk.declarations import Declarations
from dataflare.sdk.logs import KeptLog, SupportsLog
from dataflare.sdk.source import Replay, SplitReader, SupportsCommits
from dataflare.sdk.sql.checksums import SupportsChecksums
from dataflare.sdk.sql.config import Incremental
from dataflare.sdk.sql.incremental import State
from dataflare.sdk.sql.names import at_step, quoted
from dataflare.sdk.sql.relation import with_values
from dataflare.sdk.sql.table_streams import TableStreams
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.expr import Typed


class PostgresSource(
    TableStreams[Relation],
    SupportsChecksums[Relation],
    SupportsCommits,
    SupportsLog,
):
    """Rows of a table, view or query, or a table and its changes."""

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
    digests = DIGESTS

    config: PostgresSourceConfig

    finds_new_fields = True
    resyncs = True

    def __init__(self, config: PostgresSourceConfig, context: Any) -> None:
        super().__init__(config, context)
        # Many tables are read in one snapshot.
        shared = {} if context.shared is None else context.shared
        self._snapshot: SharedSnapshot = shared.setdefault("snapshot", SharedSnapshot())
        self._confirmed = Confirmed()
        self.finds_new_fields = config.changes is not None
        self._log: ChangeSource | None = None

    @property
    def server(self) -> Server:
        return Server.of(self.config)

    def errors(self, subject: str) -> AbstractContextManager[None]:
        return postgres_errors(self.server.label, subject)

    def list_tables(self, db: Connection) -> Sequence[Entry]:
        self.server.begin(db, "read only")
        return tables_and_views(db)

    def check_log(self, db: Connection) -> None:
        if self.log is not None:
            check_server(db, self.server.label)

    def find_in(self, db: Connection) -> Relation:
        self.server.begin(db, "read only")
        relation = find_relation(db, self.server, self.config, self.contract)
        log = self.log
        return relation if log is None else log.look(db, relation, self.server.label)

    @property
    def log(self) -> ChangeSource | None:
        options = self.config.changes
        if options is not None and self._log is None:
            stops = options.stop is not None or self.in_batch
            self._log = ChangeSource(
                options=options, context=self.context, stops=stops,
                copies=options.snapshot == "initial", facts=tuple(options.metadata),
            )  # fmt: skip
        return self._log

    def log_name(self) -> str:
        return self.followed(None).name

    def tables_begun(self, position: Mapping[str, Any]) -> Set[str]:
        return {table.name for table in Place.from_json(position).tables.values()}

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
        if self.log is not None:
            until = None
            if self.log.stops:
                until = await in_thread(self.with_db, "the end of its log", end_of_log)
            return [self.log.split(carried, until)]
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

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        log = self.log
        if log is None:
            return await super().open(split, position)
        start = split.data["start"] if position is None else position.value
        until = split.data["until"] if log.stops else None
        if log.stops and until is None:  # a run that had no end is ended by one that has
            until = await in_thread(self.with_db, "the end of its log", end_of_log)
        tables = [
            each.followed(
                stream, self.not_truncated.get(stream), self.needs_unchanged.get(stream, {})
            )
            for stream, each in await self.followed_members()
        ]
        following = log.following(
            self.server, self.context.step, tables, start, until, has_event_time=self.has_event_time,
            not_ranged=self.not_ranged, new_tables=self.new_tables if self.gives_streams() else None,
        )  # fmt: skip
        return ChangeReader(following, Place.from_json(start) if start else None, self._confirmed)

    def followed(
        self,
        stream: str | None,
        not_truncated: str | None = None,
        needs_unchanged: Mapping[str, str] = MappingProxyType({}),
    ) -> Followed:
        """Its table, as a reader of changes gets it. Called after `look`. The others: as in Followed."""
        assert self._relation is not None
        assert self.log is not None
        reading, gives_new = self.reading(self._relation), self.gives_new()
        return self.log.followed(
            stream, reading, gives_new=gives_new, not_truncated=not_truncated,
            needs_unchanged=needs_unchanged,
        )  # fmt: skip

    def range_of(self, stream: str | None, condition: Typed) -> str | None:
        member = self if stream is None else (self._members or {})[stream]
        relation = member._relation
        if relation is None or not all(member.compares(relation, n) for n in condition.columns):
            return None
        spelled = condition.to_sql(self.dialect)
        if spelled is None or spelled.text.count("?") != len(spelled.params):
            return None
        return with_values(spelled, literal)

    async def committed(self, positions: Mapping[str, Position]) -> None:
        for position in positions.values():
            if self.log is not None and position.value:
                place = Place.from_json(position.value)
                await in_thread(self._confirmed.confirm, self.server, place.slot, place.lsn)
                await in_thread(self._tell_resyncs, place)

    def _tell_resyncs(self, place: Place) -> None:
        folder = self.context.folder
        if folder is None:
            return
        if asked := resyncs.asked(folder):
            resyncs.tell(folder, resync_states(place, asked, self.context.step))
        for table in place.tables.values():
            for id_ in table.ranged:
                resyncs.range_done(folder, id_)

    async def kept_log(self, position: Mapping[str, Any]) -> KeptLog | None:
        if self.log is None:
            return None
        names = self.log.names(self.server.label, position)
        behind = Place.from_json(position).lsn if position else None
        return await in_thread(
            self.with_db, "the state of its slot", lambda db: kept_log(db, names, behind)
        )

    async def drop_log(self) -> list[str]:
        return [] if self.log is None else await in_thread(self._drop_log, self.log)

    def _drop_log(self, log: ChangeSource) -> list[str]:
        names = log.names(self.server.label, {})

        def drop(db: Connection) -> list[str]:
            dropped = [f"slot {names.slot}"] if drop_slot(db, names) else []
            if drop_publication(db, names):
                dropped.append(f"publication {names.publication}")
            return dropped

        with at_step(self.context.step):
            return self.with_db("dropping its slot", drop)

    def open_part(self, relation: Relation, split: Split, start: Mapping[str, Any]) -> SplitReader:
        reading = replace(self.reading(relation), snapshot=self._snapshot)
        reader = KeyReader if relation.key and "block" not in split.data else StreamReader
        return reader(reading, split.data, start)

    def open_new(self, relation: Relation, config: Incremental, state: State) -> SplitReader:
        return IncrementalReader(self.reading(relation), config, state)

    def texts(self, column: Column) -> Mapping[str, str]:
        return texts(column)

    def own_text(self, names: Sequence[str]) -> tuple[str, str] | None:
        assert self._relation is not None
        return own_text([self._relation.column(name) for name in names])

    def identifier(self, name: str) -> str:
        return quoted(name)

    def asked(
        self, db: Connection, relation: Relation, sql: Callable[[str], str]
    ) -> list[tuple[Any, ...]]:
        self.server.begin(db, "isolation level repeatable read read only")
        values = dict(relation.values)
        statement = sql(self.reading(relation).where(values))
        for setting in values.items():
            db.execute("select set_config(%s, %s, true)", setting)
        return db.execute(statement).fetchall()

    def declarations(self) -> Declarations | None:
        relation = self._relation
        if relation is None:
            return None
        return declarations_of(relation, self.output(relation), full=self.reads_all())

    async def aclose(self) -> None:
        await in_thread(self._snapshot.close)
