"""Where a reader of changes begins: the publication and the slot, made or checked, and the tables that are new."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import psycopg
from msgspec import Struct
from msgspec.structs import replace

from dataflare.connectors.postgres.catalog import Connection
from dataflare.connectors.postgres.cdc import objects, rewrites
from dataflare.connectors.postgres.cdc.defaults import (
    Default,
    defaults,
    refuse_default,
    refuse_renamed,
)
from dataflare.connectors.postgres.cdc.following import Followed, Following
from dataflare.connectors.postgres.cdc.objects import KeptBytes, Names
from dataflare.connectors.postgres.cdc.place import Place, TablePlace
from dataflare.connectors.postgres.cdc.resyncing import Resyncs
from dataflare.connectors.postgres.cdc.wire import Replication, lsn_of
from dataflare.connectors.postgres.errors import postgres_errors
from dataflare.connectors.postgres.relation import Relation
from dataflare.errors import SystemError_
from dataflare.sdk import resyncs
from dataflare.sdk.sql.changes import not_followed, was_renamed
from dataflare.sdk.sql.table_streams import NewTables

_MAKE = "select lsn::text from pg_create_logical_replication_slot(%s, 'pgoutput')"
_ADVANCE = (
    "select end_lsn::text from pg_replication_slot_advance(%s, "
    "greatest(pg_current_wal_flush_lsn(), (select confirmed_flush_lsn from pg_replication_slots where slot_name = %s)))"
)
_SHOWN = 5


class Opened(Struct, frozen=True):
    """Where a reader goes on. warnings: what users are told of it. rewritten: tables to read again, see `rewrites`."""

    place: Place
    warnings: Sequence[str] = ()
    rewritten: Collection[int] = ()


def first_place(
    db: Connection, replication: Replication, following: Following, names: Names
) -> Opened:
    """The place of a first run. Raises psycopg's errors."""
    system = replication.ask("IDENTIFY_SYSTEM")
    objects.check_server(db, names.server)
    tables = list(following.tables.values())
    objects.make_publication(db, names, [t.table for t in tables], adds=_are_many(tables))
    facts = objects.slot_facts(db, names.slot)
    try:
        if facts is None:
            lsn = _lsn(db, _MAKE, names.slot)
        else:
            objects.check_slot(facts, names, lsn_of(facts["confirmed_flush_lsn"] or "0/0"))
            if facts["active"]:
                raise objects.in_use(db, names)
            lsn = lsn_of(facts["confirmed_flush_lsn"])
            if following.copies:
                # What the slot has kept is in the tables that are read now.
                lsn = _lsn(db, _ADVANCE, names.slot, names.slot)
    except psycopg.errors.ObjectInUse as error:
        raise objects.in_use(db, names) from error
    except psycopg.Error as error:
        refused = objects.refused(error, names)
        if refused is None:
            raise
        raise refused from error
    place = Place(
        names.slot, names.publication, system["systemid"], int(system["timeline"]), lsn, _new(db, following, tables)
    )  # fmt: skip
    is_again = facts is not None and following.copies
    warnings = [*_heirs(db, following), *([_again(names, tables)] if is_again else [])]
    return Opened(place, warnings)


def _heirs(db: Connection, following: Following) -> list[str]:
    """What users are told of tables that others inherit from."""
    return [
        f"table '{following.tables[oid].name}' is read without the rows of the tables that inherit from it "
        f"({', '.join(heirs[:_SHOWN])}): their changes are not its changes, so name them in 'tables'"
        for oid, heirs in objects.heirs(db, following.tables).items()
    ]


def _again(names: Names, tables: Sequence[Followed]) -> str:
    """What users are told where a slot was there before the first run. Whether rows were written then is not known."""
    shown = ", ".join(sorted(table.name for table in tables)[:_SHOWN])
    what = shown if len(tables) <= _SHOWN else f"{len(tables)} tables ({shown}, ...)"
    return (
        f"slot '{names.slot}' was there before this run, which reads {what} anew: if an earlier run has written rows that were "
        "deleted since, destinations with mode mirror still have them, and 'dataflare resync' of the table removes them"
    )


def _are_many(tables: Sequence[Followed]) -> bool:
    return any(table.stream is not None for table in tables)


def _new(db: Connection, following: Following, tables: Sequence[Followed]) -> dict[int, TablePlace]:
    """The places of tables that were not followed before."""
    reads, asked = following.copies, resyncs.asked(following.folder)
    storages = rewrites.storages(db, following, [t.table.oid for t in tables])
    return {
        t.table.oid: TablePlace(
            t.name,
            (),
            reading=reads,
            resync=asked.get(t.reading.step, "") if reads else "",
            storage=storages.get(t.table.oid),
        ).having(t.logged_columns, t.numbers)
        for t in tables
    }


def _lsn(db: Connection, sql: str, *values: Any) -> int:
    row = db.execute(sql, values).fetchone()
    assert row is not None
    return lsn_of(str(row[0]))


def checked(
    db: Connection, replication: Replication, following: Following, names: Names, place: Place
) -> Opened:
    """The place of a run that goes on. Raises an error if the log behind it is not to be had, and psycopg's errors."""
    system = replication.ask("IDENTIFY_SYSTEM")
    if system["systemid"] != place.system:
        raise SystemError_(
            f"{names.server} is another server than the one that was read before: its system identifier is "
            f"{system['systemid']}, and was {place.system}",
            code="E0605",
            help=f"look at 'connection_string', or {objects.FRESH}",
        )
    kept = _kept(following, place.tables)
    objects.check_server(db, names.server)
    facts = objects.slot_facts(db, names.slot)
    objects.check_slot(facts, names, place.lsn)
    timeline = int(system["timeline"])
    if timeline != place.timeline and not (facts or {}).get("failover"):
        raise SystemError_(
            f"{names.server} is on timeline {timeline}, and was on {place.timeline}: another server has become the "
            f"primary, and slot '{names.slot}' was not kept in step with it",
            code="E0605",
            help=objects.FRESH,
        )
    _check_published(db, names, [following.tables[oid] for oid in kept])
    requests = Resyncs(following.folder, following.tables, {})
    requests.look()
    anew = requests.due(replace(place, tables=kept), starts=True)
    looked = rewrites.look(db, following, {o: each for o, each in kept.items() if o not in anew})
    warnings = [*_heirs(db, following), *looked.told]
    for oid, there in kept.items():
        if oid in anew:
            continue
        table, there = following.tables[oid], looked.kept(oid, there)
        refuse_renamed(table, names.server, there.number_of, there.highest)
        kept[oid] = there = there.having(there.columns, table.numbers)
        again = _once_more(db, following, table, there)
        if again is not None and oid not in looked.again:
            kept[oid] = again
            warnings.append(
                f"table '{again.name}' is read once more, because its rows from before have the default of a new column"
            )
    added = [table for oid, table in following.tables.items() if oid not in kept]
    if added:
        objects.make_publication(db, names, [each.table for each in added], adds=True)
    tables = {**kept, **_new(db, following, added)}
    by_name = {each.name: oid for oid, each in place.tables.items()}
    others = rewrites.look_at_others(following, added, {*by_name, *place.left})
    warnings += others.told
    followed_now = {each.name for each in following.tables.values()}
    left = {name: oid for name, oid in by_name.items() if name and name not in followed_now}
    for name, oid in left.items():
        now = following.tables.get(oid)
        if now is None:
            warnings.append(not_followed(name))
        elif now.stream is not None:
            warnings.append(was_renamed(name, now.name))
    return Opened(
        replace(
            place,
            timeline=timeline,
            tables=tables,
            left=tuple(sorted({*place.left, *left} - followed_now)),
        ),
        warnings,
        {*looked.again, *others.again},
    )


def _kept(following: Following, before: Mapping[int, TablePlace]) -> dict[int, TablePlace]:
    """The places of the tables that were followed before under their name; a single table may have another name now."""
    kept = {}
    for oid, table in following.tables.items():
        there = before.get(oid)
        if there is not None and (table.stream is None or there.name in ("", table.name)):
            kept[oid] = replace(there, name=table.name)
    return kept


class Checked(Struct, frozen=True):
    """gone: the tables of many that were dropped. kept: what the server keeps of its log. looked: at tables whose
    rows were given. new: tables that came, and are published now."""

    gone: set[int]
    kept: KeptBytes | None
    looked: rewrites.Found
    new: NewTables = NewTables()


def _once_more(
    db: Connection, following: Following, table: Followed, there: TablePlace
) -> TablePlace | None:
    """The place of a table whose rows were given without a column in which they have a default; else None. Raises an
    error where it cannot be read once more."""
    wanted = {column.name for column in table.columns}
    appeared = wanted & set(table.logged_columns) - set(there.columns)
    if not appeared:
        return None
    now = defaults(db, table.table.oid)
    with_default = [name for name in sorted(appeared) if now.get(name) is not None]
    for name in with_default:
        # Where the first run read no table, rows that were never given must not come now.
        default = now[name] if following.copies else Default(None)
        refuse_default(table, following.server.label, name, default)
    if not with_default:
        return None
    columns = tuple(dict.fromkeys((*there.columns, *table.logged_columns)))
    return there.having(columns, table.numbers).once_more(columns)


def check_published(
    following: Following, but: set[int], places: Mapping[int, TablePlace]
) -> Checked:
    """Raises an error if the server does not give the changes of a table any more. but: tables that are known to be gone.
    Blocking."""
    names = following.names
    assert names is not None
    tables = {oid: table for oid, table in following.tables.items() if oid not in but}
    db = following.server.connect(following.application)
    try:
        with postgres_errors(following.server.label, following.label):
            gone = objects.dropped(db, tables) if _are_many([*tables.values()]) else set()
            _refuse_renamed_tables(db, following, tables.keys() - gone)
            _check_published(db, names, [t for oid, t in tables.items() if oid not in gone])
            given = {o: there for o, there in places.items() if o in tables and not there.reading}
            looked, kept = rewrites.look(db, following, given), objects.kept_bytes(db, names)
            return Checked(gone, kept, looked, _published_now(db, following, names))
    finally:
        db.close()


def _published_now(db: Connection, following: Following, names: Names) -> NewTables:
    """Tables that came, after they were published. A run that has an end leaves them to the next one."""
    if following.new_tables is None or following.until is not None:
        return NewTables()

    def publish(relation: Relation) -> None:
        assert relation.table is not None
        other = following.server.connect(following.application)  # the first is in a transaction
        try:
            objects.make_publication(other, names, [relation.table], adds=True)
        finally:
            other.close()

    return following.new_tables(db, publish)


def _refuse_renamed_tables(db: Connection, following: Following, tables: Collection[int]) -> None:
    """Another table may have the name now, and its changes would be missed. Raises an error."""
    for oid, name in objects.names_now(db, tables).items():
        followed = following.tables[oid]
        if name != followed.name:
            raise SystemError_(
                f"table '{followed.name}' in {following.server.label} was renamed: it is called '{name}' now",
                code="E0605",
                step=followed.reading.step,
                help="run again: the run then has the tables that are there now",
            )


def _check_published(db: Connection, names: Names, tables: Sequence[Followed]) -> None:
    if not objects.check_publication(db, names, [each.table for each in tables]):
        raise SystemError_(
            f"publication '{names.publication}' of {names.server} is gone, and with it changes that were not read",
            code="E0605",
            help=objects.FRESH,
        )
