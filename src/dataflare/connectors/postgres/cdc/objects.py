"""The publication and the slot of a source: checked, made, and dropped.

Always true: a table whose rows could not be identified is never published, because the server would then refuse
updates of it; a slot with another's reader is never dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import psycopg
from msgspec import Struct
from psycopg.rows import dict_row

from dataflare.connectors.postgres.catalog import Connection, Table
from dataflare.connectors.postgres.cdc.wire import lsn_of, lsn_text
from dataflare.connectors.postgres.errors import error_facts
from dataflare.errors import ConfigError, Retry, SystemError_
from dataflare.sdk.logs import KeptLog
from dataflare.sdk.sql.names import quoted

_STATES = {
    "must be superuser or replication role": "42501",
    "permission denied to start WAL sender": "42501",
    "requested standby connections exceeds": "53300",
}
FRESH = "run with --fresh to read the table and its changes anew"
_SHOWN = 5
_MUCH, _NEAR = 20 << 30, 80
"""Bytes of the log, and percent of what the server keeps at most, from which on users are told."""
_FROM_ROOT = 130_000
"""The first version that publishes changes of a partition as those of the whole table."""


class Names(Struct, frozen=True):
    """server: host, port and database, for messages."""

    slot: str
    publication: str
    server: str


def identity_of(db: Connection, table: Table, server: str) -> tuple[str, tuple[str, ...]]:
    """The table's replica identity (d, i, f) and the columns that identify a row in the log; none where the whole
    row does and the table has no key. Raises an error for a table whose changes cannot be followed."""
    row = db.execute(
        "select relreplident::text from pg_class where oid = %s", (table.oid,)
    ).fetchone()
    assert row is not None
    kind, label = str(row[0]), f"table '{table.label}' in {server}"
    if not table.is_table:
        raise ConfigError(
            f"'{table.label}' in {server} is not a table, and only tables have changes in the log",
            code="E0405",
            help="name a table, or read the view without 'cdc'",
        )
    if kind == "f":
        return kind, table.primary or (table.keys[0] if table.keys else ())
    key = table.primary if kind == "d" else _index_key(db, table) if kind == "i" else ()
    if not key:
        why = "no primary key" if kind == "d" else "no replica identity"
        raise SystemError_(
            f"{label} has {why}: the log could not say which row was updated or deleted",
            code="E0605",
            help=f"give it a primary key, or: ALTER TABLE {table.sql} REPLICA IDENTITY FULL",
        )
    return kind, key


def _index_key(db: Connection, table: Table) -> tuple[str, ...]:
    rows = db.execute(
        "select a.attname::text from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = "
        "any(i.indkey) where i.indrelid = %s and i.indisreplident order by array_position(i.indkey, a.attnum)",
        (table.oid,),
    ).fetchall()
    return tuple(name for (name,) in rows)


def check_server(db: Connection, server: str) -> None:
    """Raises an error if the server has no logical log."""
    row = db.execute(
        "select current_setting('wal_level'), pg_is_in_recovery(), current_setting('max_replication_slots')::int, "
        "current_setting('max_wal_senders')::int"
    ).fetchone()
    assert row is not None
    level, is_standby, slots, senders = row
    if is_standby:
        raise SystemError_(
            f"{server} is a standby, and changes are read from the primary",
            code="E0605",
            help="connect to the primary",
        )
    if level != "logical":
        raise SystemError_(
            f"{server} does not write what 'cdc' needs to its log: wal_level is {level}",
            code="E0605",
            help="ALTER SYSTEM SET wal_level = logical; then restart the server",
        )
    for name, number in (("max_replication_slots", slots), ("max_wal_senders", senders)):
        if not number:
            raise SystemError_(
                f"{server} allows no replication: {name} is 0",
                code="E0605",
                help=f"ALTER SYSTEM SET {name} = 10; then restart the server",
            )


# -- publication -----------------------------------------------------------------------------------


def creation(db: Connection, name: str, tables: Sequence[Table]) -> str:
    """The statement that makes the publication."""
    root = ", publish_via_partition_root = true" if db.info.server_version >= _FROM_ROOT else ""
    return (
        f"CREATE PUBLICATION {quoted(name)} FOR TABLE {_listed(tables)} "
        f"WITH (publish = 'insert, update, delete, truncate'{root})"
    )


def addition(name: str, tables: Sequence[Table]) -> str:
    """The statement that takes tables into the publication."""
    return f"ALTER PUBLICATION {quoted(name)} ADD TABLE {_listed(tables)}"


def _listed(tables: Sequence[Table]) -> str:
    """Without tables that inherit from them, whose updates the server could refuse."""
    return ", ".join(table.sql if table.kind == "p" else f"ONLY {table.sql}" for table in tables)


def check_publication(db: Connection, names: Names, tables: Sequence[Table]) -> bool:
    """Whether the publication is there. Raises an error if it does not give all changes of the tables."""
    publication = _row(db, "select * from pg_publication where pubname = %s", names.publication)
    if publication is None:
        return False
    label, change = (
        f"publication '{names.publication}' in {names.server}",
        f"ALTER PUBLICATION {quoted(names.publication)}",
    )
    lacks = [k for k in ("insert", "update", "delete", "truncate") if not publication[f"pub{k}"]]
    if lacks:
        raise SystemError_(
            f"{label} leaves out: {', '.join(lacks)}",
            code="E0605",
            help=f"{change} SET (publish = 'insert, update, delete, truncate')",
        )
    members = _members(db, names)
    present = _columns(db, tables) if any("attnames" in each for each in members.values()) else {}
    for table in tables:
        if table.kind == "p" and not publication.get("pubviaroot", False):
            raise SystemError_(
                f"{label} gives the changes of partitions, not those of '{table.label}'",
                code="E0605",
                help=f"{change} SET (publish_via_partition_root = true)",
            )
        member = members.get((table.folder, table.name))
        if member is None:
            raise SystemError_(
                f"{label} does not have table '{table.label}'",
                code="E0605",
                help=addition(names.publication, [table]),
            )
        published = member.get("attnames")
        lacking = [
            name
            for name, column in table.columns.items()
            # A column that was dropped is told by the log.
            if not column.generated and name in present.get(table.oid, ()) and name not in published
        ] if published is not None else []  # fmt: skip
        if lacking or member.get("rowfilter"):
            what = "rows" if member.get("rowfilter") else f"the columns {', '.join(lacking)}"
            raise SystemError_(
                f"{label} leaves out {what} of table '{table.label}'",
                code="E0605",
                help=f"{change} SET TABLE {table.sql}",
            )
    return True


def _members(db: Connection, names: Names) -> dict[tuple[str, str], dict[str, Any]]:
    """The tables of the publication, by schema and name."""
    sql = "select * from pg_publication_tables where pubname = %s"
    with db.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(sql, (names.publication,)).fetchall()
    return {(str(row["schemaname"]), str(row["tablename"])): row for row in rows}


def _columns(db: Connection, tables: Sequence[Table]) -> Mapping[int, frozenset[str]]:
    """By number of the table, the columns that are there now."""
    rows = db.execute(
        "select attrelid, array_agg(attname::text) from pg_attribute where attrelid = any(%s) and not attisdropped "
        "group by 1",
        ([table.oid for table in tables],),
    ).fetchall()
    return {oid: frozenset(names) for oid, names in rows}


def dropped(db: Connection, tables: Collection[int]) -> set[int]:
    """Which of these tables are not there any more."""
    rows = db.execute("select oid from pg_class where oid = any(%s)", (list(tables),)).fetchall()
    return set(tables) - {oid for (oid,) in rows}


def heirs(db: Connection, tables: Collection[int]) -> dict[int, list[str]]:
    """By number of a table, the tables that inherit from it, without partitions."""
    sql = (
        "select inhparent, array_agg(inhrelid::regclass::text order by 1) from pg_inherits i join pg_class c on "
        "c.oid = i.inhrelid where inhparent = any(%s) and not c.relispartition group by 1"
    )
    return dict(db.execute(sql, (list(tables),)).fetchall())


def names_now(db: Connection, tables: Collection[int]) -> dict[int, str]:
    """By number of the tables that are there, schema and name."""
    sql = (
        "select c.oid, n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace "
        "where c.oid = any(%s)"
    )
    return dict(db.execute(sql, (list(tables),)).fetchall())


def make_publication(
    db: Connection, names: Names, tables: Sequence[Table], *, adds: bool = False
) -> None:
    """Make the publication if it is not there. adds: take tables into it that it lacks."""
    is_there = _row(db, "select 1 from pg_publication where pubname = %s", names.publication)
    if is_there is None:
        _change_publication(db, names, tables, creation(db, names.publication, tables))
    elif adds:
        members = _members(db, names)
        lacking = [each for each in tables if (each.folder, each.name) not in members]
        if lacking:
            _change_publication(db, names, lacking, addition(names.publication, lacking))
    check_publication(db, names, tables)


def _change_publication(
    db: Connection, names: Names, tables: Sequence[Table], statement: str
) -> None:
    labels = ", ".join(f"'{table.label}'" for table in tables[:_SHOWN])
    of = f"of table {labels}" if len(tables) == 1 else f"of {len(tables)} tables ({labels}, ...)"
    try:
        db.execute(statement)
    except psycopg.errors.DuplicateObject:
        return  # another run has made it, and it is checked behind this
    except psycopg.errors.InsufficientPrivilege as error:
        raise SystemError_(
            f"the user may not make a publication {of} in {names.server}: {error_facts(error).text}",
            code="E0602",
            help=f"let the owner of the table run: {statement}",
        ) from error


# -- slot ------------------------------------------------------------------------------------------


def slot_facts(db: Connection, name: str) -> Mapping[str, Any] | None:
    """The slot's row of pg_replication_slots, whose columns depend on the version."""
    return _row(db, "select * from pg_replication_slots where slot_name = %s", name)


def check_slot(facts: Mapping[str, Any] | None, names: Names, behind: int) -> None:
    """Raises an error if the log behind a position is not to be had from the slot."""
    label = f"slot '{names.slot}' of {names.server}"
    if facts is None:
        raise SystemError_(
            f"{label} is gone, and with it the changes since {lsn_text(behind)}",
            code="E0605",
            help=FRESH,
        )
    if facts.get("wal_status") == "lost" or facts.get("invalidation_reason"):
        why = facts.get("invalidation_reason") or "max_slot_wal_keep_size"
        raise SystemError_(
            f"{label} is lost: the server has removed its log ({why}), and with it changes since {lsn_text(behind)}",
            code="E0605",
            help=f"{FRESH}, and raise max_slot_wal_keep_size",
        )
    if facts["plugin"] != "pgoutput":
        raise SystemError_(
            f"{label} has the plugin {facts['plugin'] or 'none'}, not pgoutput",
            code="E0605",
            help="name another slot: cdc: {slot: ...}",
        )
    flushed = facts["confirmed_flush_lsn"]
    if flushed is not None and lsn_of(flushed) > behind:
        raise SystemError_(
            f"{label} is at {flushed}, behind {lsn_text(behind)} where this run goes on: the changes between them are "
            "gone, because the slot was made anew or advanced by another program",
            code="E0605",
            help=FRESH,
        )


def in_use(db: Connection, names: Names) -> SystemError_:
    """The error for a slot that another program reads."""
    facts = slot_facts(db, names.slot) or {}
    user = _row(db, "select * from pg_stat_activity where pid = %s", facts.get("active_pid")) or {}
    who = (
        f"'{user.get('application_name') or '?'}' from {user.get('client_addr') or 'this machine'}"
    )
    return SystemError_(
        f"slot '{names.slot}' of {names.server} is in use by {who}, process {facts.get('active_pid') or '?'}",
        code="E0605",
        retry=Retry.LATER,
        help="end the other run, or give this source a slot of its own: cdc: {slot: ...}",
    )


def drop_slot(db: Connection, names: Names) -> bool:
    """Drop a slot that nothing reads. Whether it was there."""
    try:
        db.execute("select pg_drop_replication_slot(%s)", (names.slot,))
    except psycopg.errors.UndefinedObject:
        return False
    except psycopg.errors.ObjectInUse as error:
        raise in_use(db, names) from error
    return True


def drop_publication(db: Connection, names: Names) -> bool:
    """Whether it was there."""
    if _row(db, "select 1 as n from pg_publication where pubname = %s", names.publication) is None:
        return False
    db.execute(f"drop publication {quoted(names.publication)}")
    return True


class KeptBytes(Struct, frozen=True):
    """How much of its log the server keeps for a slot. limit: how much it keeps at most; None: all that is needed."""

    size: int
    limit: int | None

    def doubt(self, names: Names) -> str | None:
        """What a user should know of it, if it is much."""
        most = _MUCH if self.limit is None else min(_MUCH, self.limit * _NEAR // 100)
        if self.size < most:
            return None
        then = "its disk may become full"
        if self.limit is not None:
            then = f"from {self.limit >> 20:,} MiB on (max_slot_wal_keep_size) it removes its log, and changes are lost"
        return (
            f"{names.server} keeps more than {most >> 20:,} MiB of its log for slot '{names.slot}', because changes are "
            f"not read or not committed fast enough: {then}"
        )


def kept_bytes(db: Connection, names: Names) -> KeptBytes | None:
    """None for a slot that is gone, or whose log is."""
    row = _row(
        db,
        "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)::bigint as size, (select setting::bigint "
        "from pg_settings where name = 'max_slot_wal_keep_size') as megabytes "
        "from pg_replication_slots where slot_name = %s",
        names.slot,
    )
    if row is None or row["size"] is None:
        return None
    megabytes = row["megabytes"]
    return KeptBytes(row["size"], None if megabytes is None or megabytes < 0 else megabytes << 20)


def kept_log(db: Connection, names: Names, behind: int | None) -> KeptLog:
    """What the server keeps for the slot. behind: the position where the next run goes on; None where none has run."""
    facts = slot_facts(db, names.slot)
    about = {"publication": names.publication, "server": names.server}
    tables = sorted(f"{folder}.{name}" for folder, name in _members(db, names))
    if facts is None:
        state = "not there" if behind is None else "gone"
        return KeptLog(names.slot, state, behind is not None, facts=about, tables=tables)
    lost = facts.get("wal_status") == "lost" or bool(facts.get("invalidation_reason"))
    if behind is not None and not facts["active"]:
        # A run that is active may have confirmed more since its position was looked up.
        lost |= lsn_of(facts["confirmed_flush_lsn"] or "0/0") > behind
    kept = kept_bytes(db, names)
    state = "lost" if lost else "active" if facts["active"] else "waiting"
    position = facts["confirmed_flush_lsn"] or ""
    size = None if kept is None else kept.size
    if kept is not None and kept.limit is not None:
        about["kept_bytes_max"] = f"{kept.limit}"
    return KeptLog(names.slot, state, lost, position, size, about, tables)


def refused(error: psycopg.Error, names: Names) -> SystemError_ | None:
    """The error for a slot that could not be made or read, where it is known what would help."""
    facts = error_facts(error)
    # An error while connecting has no state.
    state = facts.state or next((code for text, code in _STATES.items() if text in facts.whole), "")
    match state:
        case "42501":
            return SystemError_(
                f"the user may not replicate from {names.server}: {facts.text}",
                code="E0602",
                help="ALTER ROLE ... REPLICATION for the user in 'connection_string'",
            )
        case "53400":
            return SystemError_(
                f"{names.server} has no free replication slot: {facts.text}",
                code="E0605",
                help="drop slots that nothing reads (pg_replication_slots), or: ALTER SYSTEM SET "
                "max_replication_slots = 20; then restart the server",
            )
        case "53300":
            return SystemError_(
                f"{names.server} takes no further reader of its log: {facts.text}",
                code="E0605",
                retry=Retry.LATER,
                help="ALTER SYSTEM SET max_wal_senders = 20; then restart the server",
            )
    return None


def _row(db: Connection, sql: str, *values: Any) -> dict[str, Any] | None:
    with db.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql, values).fetchone()
