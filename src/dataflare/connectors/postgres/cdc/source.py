"""What a source of changes adds to the source of tables."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from dataflare.connectors.postgres.catalog import Connection
from dataflare.connectors.postgres.cdc.following import Followed, Following
from dataflare.connectors.postgres.cdc.objects import Names, check_server, identity_of
from dataflare.connectors.postgres.cdc.wire import lsn_of
from dataflare.connectors.postgres.config import Changes
from dataflare.connectors.postgres.connection import Server
from dataflare.connectors.postgres.reader import Reading
from dataflare.connectors.postgres.relation import Column, Relation
from dataflare.model.progress import Split
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.sql.change_facts import TYPES, columns_of, refuse_taken
from dataflare.sdk.sql.changes import TableChanges
from dataflare.sdk.sql.table_streams import NewTables

_NAME_MAX = 63
_OF_TABLE = {
    "_ts": "null::timestamptz", "_lsn": "null::int8", "_txid": "null::text", "_snapshot": "true",
}  # fmt: skip


class Identity(Struct, frozen=True):
    """How the log tells the rows of a table. key: the columns that identify one. has_old_rows: whether it has rows
    as they were before. large: columns of which it may lack a value that did not change."""

    key: tuple[str, ...]
    has_old_rows: bool
    large: tuple[str, ...] = ()


class ChangeSource(TableChanges, kw_only=True):
    """identity: None before the table was found."""

    options: Changes
    context: ConnectorContext
    identity: Identity | None = None

    def row_key(self, output: Sequence[str] | None) -> tuple[str, ...]:
        return () if self.identity is None else self.identity.key

    def has_whole_rows(self) -> bool:
        return self.identity is not None and self.identity.has_old_rows

    def leaves_out(self) -> tuple[str, ...]:
        return () if self.identity is None else self.identity.large

    def look(self, db: Connection, relation: Relation, server: str) -> Relation:
        """The table as its changes are read. Raises an error if they cannot be."""
        assert relation.table is not None
        check_server(db, server)
        relation = replace(
            relation, table=relation.table.alone(), primary=relation.table.own_primary
        )
        assert relation.table is not None
        kind, key = identity_of(db, relation.table, server)
        large = (n for n, c in relation.table.columns.items() if c.large and n not in key)
        self.identity = Identity(key, kind == "f", () if kind == "f" else tuple(large))
        generated = {n for n, c in relation.table.columns.items() if c.generated}
        columns = tuple(c for c in relation.columns if c.name not in generated)
        refuse_taken(
            [*relation.table.columns], columns_of(self.facts), relation.label, self.context.step
        )
        columns += tuple(_fact(name) for name in columns_of(self.facts))
        # The log has changes of a table that inherits as those of that table; of a partition as those of the whole.
        only = "" if relation.table.kind == "p" else "only "
        return replace(relation, key=key, columns=columns, source=f"{only}{relation.source}")

    def split(self, carried: Mapping[str, Any] | None, until: int | None) -> Split:
        return self.split_from(carried or {}, until)

    def following(
        self,
        server: Server,
        step: str,
        tables: Sequence[Followed],
        start: Mapping[str, Any],
        until: int | None,
        *,
        has_event_time: bool,
        not_ranged: Mapping[str | None, str],
        new_tables: Callable[[Connection, Callable[[Relation], None]], NewTables] | None,
    ) -> Following:
        names = None
        if self.context.folder is not None or start:
            names = self.names(server.label, start)
        return Following(
            server, step, {each.table.oid: each for each in tables}, names,
            copies=self.copies, until=until, has_event_time=has_event_time,
            folder=self.context.folder, not_ranged=not_ranged, new_tables=new_tables,
        )  # fmt: skip

    def followed(
        self, stream: str | None, reading: Reading, *, gives_new: bool, not_truncated: str | None,
        needs_unchanged: Mapping[str, str],
    ) -> Followed:  # fmt: skip
        """The table that was found, as a reader gets it."""
        relation, identity = reading.relation, self.identity
        assert relation.table is not None
        assert identity is not None
        return Followed(
            stream, reading, relation.table, identity.key, identity.has_old_rows, gives_new,
            not_truncated, needs_unchanged,
        )  # fmt: skip

    def names(self, server: str, start: Mapping[str, Any]) -> Names:
        """start: JSON of the place, which has the names that its run had."""
        made = self.default_name() if self.context.folder is not None else ""
        return Names(
            start.get("slot") or self.options.slot or made,
            start.get("publication") or self.options.publication or made,
            server,
        )

    def default_name(self) -> str:
        """Of the slot and the publication: of the workflow and the step, and of the folder of the workflow's state, so
        that two of one name on one server have their own."""
        folder, step = self.context.folder, self.context.step
        assert folder is not None
        told_apart = hashlib.sha256(f"{folder.resolve()}\n{step}".encode()).hexdigest()[:8]
        words = re.sub("[^a-z0-9_]", "_", f"dataflare_{folder.name}_{step}".lower())
        return f"{words[: _NAME_MAX - 9]}_{told_apart}"


def _fact(name: str) -> Column:
    """The column of a fact, as rows of the table have it."""
    return Column(name, TYPES[name], sql=_OF_TABLE[name], is_fact=True)


def end_of_log(db: Connection) -> int:
    """The position behind everything that is committed now. Raises psycopg's errors."""
    row = db.execute("select pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    return lsn_of(str(row[0]))
