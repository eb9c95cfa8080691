"""The constraints of a table, used to find refused rows one by one."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from dataflare.connectors.postgres.catalog import Connection, Table
from dataflare.connectors.postgres.errors import error_facts
from dataflare.errors import DataError
from dataflare.sdk.max_errors import Bound
from dataflare.sdk.sql.names import listed, quoted
from dataflare.sdk.sql.store import Target

PLACE = "__dataflare_place"
"""Of a staged row: its number in the epoch."""


def deferred(db: Connection, table: Table) -> tuple[str, ...]:
    """The constraints that are checked at the end of a transaction, by name."""
    rows = db.execute(
        "select n.nspname, c.conname from pg_constraint c join pg_namespace n on n.oid = c.connamespace "
        "where c.conrelid = %s and c.condeferred order by 1, 2",
        (table.oid,),
    )
    return tuple(f"{quoted(folder)}.{quoted(name)}" for folder, name in rows.fetchall())


def checks(constraints: Sequence[str]) -> list[str]:
    """The statements that check deferred constraints now and defer them again. Constraints of other
    tables are not changed: their rows may not exist yet."""
    names = ", ".join(constraints)
    return (
        [f"set constraints {names} {when}" for when in ("immediate", "deferred")] if names else []
    )


def is_orphan(error: DataError) -> bool:
    """Whether a row was refused because another row does not exist (yet)."""
    cause = error.__cause__
    return isinstance(cause, psycopg.Error) and error_facts(cause).state == "23503"


def bound_of(target: Target) -> Bound:
    """How many rows may be refused for good."""
    return Bound(target.step, target.refused_max, lambda error: not is_orphan(error))


def suspects(
    db: Connection, error: DataError, table: Table, stage: str, places: tuple[int, int]
) -> list[int]:
    """The staged rows, by their PLACE, that probably violate the constraint in an error; none if
    that is unknown. It is only a first guess: other rows may violate it too, or none of these."""
    cause = error.__cause__
    if not isinstance(cause, psycopg.Error):
        return []
    broken = _broken(db, cause, table, stage)
    if broken is None:
        return []
    within = f"{PLACE} >= {places[0]} and {PLACE} < {places[1]}"
    db.execute("savepoint _dataflare_look")
    try:
        rows = db.execute(
            f"select {PLACE} from (select * from {stage} where {within}) s where {broken} order by 1"
        ).fetchall()
    except psycopg.DatabaseError:  # the constraint is on a column that is not written
        if db.closed:
            raise
        db.execute("rollback to _dataflare_look")
        rows = []
    db.execute("release _dataflare_look")
    return [int(place) for (place,) in rows]


def _broken(db: Connection, cause: psycopg.Error, table: Table, stage: str) -> str | None:
    """The SQL condition for a staged row `s` that violates the constraint."""
    if cause.sqlstate == "23502" and cause.diag.column_name:
        return f"s.{quoted(cause.diag.column_name)} is null"
    columns = (
        "array(select a.attname::text from unnest({}) with ordinality k(n, o) join pg_attribute a "
        "on a.attrelid = {} and a.attnum = k.n order by k.o)"
    )
    ours, theirs = columns.format("conkey", "conrelid"), columns.format("confkey", "confrelid")
    row = db.execute(
        f"select contype::text, pg_get_expr(conbin, conrelid), {ours}, confrelid::regclass::text, {theirs} "
        "from pg_constraint where conrelid = %s and conname = %s union all "
        f"select 'u', null, {columns.format('indkey::int2[]', 'indrelid')}, null, null from pg_index "
        "where indrelid = %s and (select relname from pg_class c where c.oid = indexrelid) = %s and indpred is null and indexprs is null",
        (table.oid, cause.diag.constraint_name, table.oid, cause.diag.constraint_name),
    ).fetchone()
    if row is None:
        return None
    kind, check, names, parent, parents = row
    is_set = " and ".join(f"s.{quoted(name)} is not null" for name in names) or "true"
    if kind == "c":
        return f"not ({check})"
    if kind == "f":
        same = _equal("p", parents, names)
        return f"{is_set} and not exists (select from {parent} p where {same})"
    if kind in ("p", "u"):
        same = _equal("t", names, names)
        return (
            f"{is_set} and (exists (select from {table.sql} t where {same}) or ({listed(names)}) in "
            f"(select {listed(names)} from {stage} group by {listed(names)} having count(*) > 1))"
        )
    return None


def _equal(other: str, theirs: Sequence[str], ours: Sequence[str]) -> str:
    pairs = zip(theirs, ours, strict=True)
    return " and ".join(f"{other}.{quoted(their)} = s.{quoted(our)}" for their, our in pairs)


def copy_rules(db: Connection, table: Table, staging: Table) -> None:
    """Copy the constraints of the table to the staging table of an overwrite, so that it refuses
    the same rows: those whose columns it all has, and foreign keys if the user may create them."""
    for name, column in table.columns.items():
        if column.not_null and name in staging.columns:
            db.execute(f"alter table {staging.sql} alter column {quoted(name)} set not null")
    rows = db.execute(
        "select pg_get_constraintdef(c.oid), c.contype::text, array(select a.attname::text from "
        "pg_attribute a where a.attrelid = c.conrelid and a.attnum = any(c.conkey)) "
        "from pg_constraint c where c.conrelid = %s and c.contype in ('c', 'u', 'p', 'x', 'f') "
        "and c.confrelid <> c.conrelid order by c.oid",
        (table.oid,),
    ).fetchall()
    indexes = db.execute(
        "select pg_get_indexdef(i.indexrelid), 'i', array(select a.attname::text from pg_attribute a "
        "where a.attrelid = i.indrelid and a.attnum = any(i.indkey)) from pg_index i "
        "where i.indrelid = %s and i.indisunique and i.indisvalid and not exists "
        "(select from pg_constraint c where c.conindid = i.indexrelid)",
        (table.oid,),
    ).fetchall()
    for definition, kind, columns in [*rows, *indexes]:
        if not set(columns) <= staging.columns.keys():
            continue
        statement = f"alter table {staging.sql} add {definition}"
        if kind == "i":
            statement = (
                f"create unique index on {staging.sql} using {definition.split(' USING ', 1)[1]}"
            )
        db.execute("savepoint _dataflare_rule")
        try:
            db.execute(statement)
        except psycopg.errors.InsufficientPrivilege:
            db.execute("rollback to _dataflare_rule")
        db.execute("release _dataflare_rule")
