"""What a source of changes adds to the source of tables."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from dataflare.connectors.mysql import tables
from dataflare.connectors.mysql.cdc.batches import Batches, Table
from dataflare.connectors.mysql.cdc.change_facts import FactColumns
from dataflare.connectors.mysql.cdc.checks import (
    check_logged,
    check_right,
    check_server,
    check_table,
    end_of_log,
    log_facts,
)
from dataflare.connectors.mysql.cdc.following import Followed, Following, catalogued
from dataflare.connectors.mysql.cdc.place import Place
from dataflare.connectors.mysql.cdc.reader import ChangeReader
from dataflare.connectors.mysql.cdc.standing import Standing, TableStanding
from dataflare.connectors.mysql.config import Changes
from dataflare.connectors.mysql.connection import Db, Server
from dataflare.connectors.mysql.reader import Reading
from dataflare.connectors.mysql.relation import Column, Relation
from dataflare.model.progress import Position, Split
from dataflare.sdk.sql.change_facts import TYPES, columns_of, refuse_taken
from dataflare.sdk.sql.changes import Committed, TableChanges
from dataflare.sdk.sql.table_streams import NewTables

_IDS = 1 << 30


class Looked(Struct, frozen=True):
    """What is known of the table."""

    place: tables.Place
    table: Table
    key: tuple[str, ...]


class ChangeSource(TableChanges, kw_only=True):
    """is_preview: whether nothing is kept, so that nothing is waited for either. looked: None before the table is
    checked."""

    options: Changes
    is_preview: bool = False
    looked: Looked | None = None

    def row_key(self, output: Sequence[str] | None) -> tuple[str, ...]:
        key = () if self.looked is None else self.looked.key
        return key if output is None or set(key) <= set(output) else ()

    def server_id(self) -> int:
        """By which the server tells a reader from its replicas: another one for each connection."""
        return self.options.server_id or _IDS + secrets.randbelow(_IDS)

    def check_server(self, db: Db, server: str) -> None:
        """Raises an error if the server's log cannot be read."""
        check_server(db, server, self.options.server_id)
        end_of_log(db, server)
        check_right(db, server, self.server_id())

    def look(
        self, db: Db, relation: Relation, table: tables.Place, columns: Sequence[str], server: str
    ) -> None:
        """columns: those that are given. Raises an error if the changes of the table cannot be read."""
        check_table(db, table, server)
        check_logged(db, server, table.schema)
        facts = columns_of(self.facts)
        columns = [name for name in columns if name not in facts]
        now = catalogued(db, relation, table)
        Batches(now, columns, relation.key, table.label)
        self.looked = Looked(table, now, relation.key)

    def with_facts(self, relation: Relation, step: str) -> Relation:
        """The table with the columns that facts of its changes become."""
        refuse_taken(relation.names, columns_of(self.facts), relation.label, step)
        facts = tuple(Column(name, TYPES[name]) for name in columns_of(self.facts))
        return replace(relation, columns=(*relation.columns, *facts))

    def log_facts(self, db: Db) -> Mapping[str, str]:
        return log_facts(db)

    def split(
        self, db: Db, carried: Mapping[str, Any] | None, server: str, names: Sequence[str]
    ) -> Split:
        """names: of the tables."""
        end = end_of_log(db, server)
        start = dict(carried or {})
        if not start:
            begun = {name: TableStanding(reads=self.copies) for name in names}
            start = Standing(None if self.copies else end, begun).to_json()
        return self.split_from(start, end.to_json() if self.stops else None)

    def followed(
        self, stream: str | None, reading: Reading, find: Callable[[Db], Relation], *,
        gives_new: bool, not_truncated: str | None, not_ranged: str | None,
    ) -> Followed:  # fmt: skip
        """The table that was found, as a reader gets it. find: looks at it again. The others: as in Followed."""
        looked, names, given = self.looked, set(columns_of(self.facts)), reading.output
        assert looked is not None
        facts = FactColumns(given, tuple(name for name in given if name in names))
        of_table = replace(reading, output=tuple(name for name in given if name not in names))
        return Followed(
            stream,
            of_table,
            looked.place,
            looked.table,
            find,
            gives_new,
            facts,
            not_truncated,
            not_ranged,
        )

    def reader(
        self, db: Db, server: Server, step: str, followed: Sequence[Followed], split: Split, position: Position | None,
        committed: Committed, folder: Path | None, new_tables: Callable[[Db], NewTables],
    ) -> ChangeReader:  # fmt: skip
        """folder: the workflow's; None where nothing is kept. new_tables: as in Following."""
        # A run that resumes may have another mode than the one that listed the split.
        ends = self.stops or self.is_preview
        until = split.data["until"] if self.stops else None
        if ends and until is None:
            until = end_of_log(db, server.label).to_json()
        following = Following(
            server, step, {each.name: each for each in followed}, self.server_id(),
            copies=self.copies, until=None if until is None else Place.from_json(until),
            folder=folder, new_tables=new_tables,
        )  # fmt: skip
        start = split.data["start"] if position is None else position.value
        return ChangeReader(following, Standing.from_json(start, followed[0].name), committed)
