"""The catalog of a database: its types, tables, keys and rights. Queried with psycopg; raises
psycopg's errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from msgspec import Struct
from msgspec.structs import replace
from psycopg.pq import ExecStatus

from dataflare.connectors.postgres.types import PgType
from dataflare.sdk.catalog import Entry
from dataflare.sdk.sql.names import quoted

Connection = psycopg.Connection[tuple[Any, ...]]

_TABLES = ("r", "p")
_SHOWN_MAX = 200


class PgColumn(Struct, frozen=True):
    """not_null: declared so. generated: its value is computed. exact: its collation distinguishes
    all different texts. number: of the column in its table, which a new name does not change.
    large: a value may be stored outside its row (TOAST)."""

    name: str
    type: PgType
    modifier: int
    label: str
    not_null: bool
    generated: bool
    exact: bool = True
    number: int = 0
    large: bool = False


class Table(Struct, frozen=True):
    """kind: relkind. keys: the column sets that are unique and never NULL, the primary key first.
    uniques: all unique column sets, in index order, that ON CONFLICT can name. rows: an estimate.
    rights: what the user may do with it. row_security: policies hold for the user. own_keys, own_primary: of its own
    rows, where the rows of tables that inherit from it may have the same."""

    oid: int
    folder: str
    name: str
    kind: str
    columns: dict[str, PgColumn]
    keys: tuple[tuple[str, ...], ...]
    uniques: tuple[frozenset[str], ...]
    rows: int
    pages: int
    rights: frozenset[str]
    row_security: bool
    primary: tuple[str, ...] = ()
    own_keys: tuple[tuple[str, ...], ...] = ()
    own_primary: tuple[str, ...] = ()

    def alone(self) -> Table:
        """Without the rows of tables that inherit from it."""
        return replace(self, keys=self.own_keys, primary=self.own_primary)

    @property
    def sql(self) -> str:
        return f"{quoted(self.folder)}.{quoted(self.name)}"

    @property
    def label(self) -> str:
        return self.name if self.folder == "public" else f"{self.folder}.{self.name}"

    @property
    def is_table(self) -> bool:
        return self.kind in _TABLES


_LOOK = (
    "select c.oid, n.nspname, c.relname, c.relkind::text, case c.relkind when 'p' then "
    "(select sum(greatest(l.reltuples, 0)) from pg_partition_tree(c.oid) p "
    "join pg_class l on l.oid = p.relid and p.isleaf)::bigint else c.reltuples::bigint end, "
    "pg_relation_size(c.oid) / current_setting('block_size')::int, "
    "array(select p from unnest(array['select', 'insert', 'update', 'delete', 'truncate']) p "
    "where has_table_privilege(c.oid, p) or case when p in ('select', 'insert', 'update') "
    "then has_any_column_privilege(c.oid, p) end), row_security_active(c.oid), "
    "c.relkind = 'r' and exists (select from pg_inherits h where h.inhparent = c.oid) "
    "from pg_class c join pg_namespace n on n.oid = c.relnamespace "
    "where c.relkind in ('r', 'p', 'v', 'm', 'f') and "
)


def find_table(db: Connection, name: str) -> Table | None:
    """The table or view of that name, `schema.name` or by the search path. The exact case is tried
    first, then the case is ignored."""
    for same in ("=", "ilike"):
        for folder, table in _readings(name):
            rows = db.execute(
                f"{_LOOK} c.relname {same} %s and (n.nspname {same} %s or "
                "(%s::text is null and pg_table_is_visible(c.oid))) limit 2",
                (_like(table, same), _like(folder, same), folder),
            ).fetchall()
            if len(rows) == 1:
                return _table(db, rows[0])
    return None


def find_exact(db: Connection, folder: str, name: str) -> Table | None:
    """The table of exactly that schema and name."""
    row = db.execute(f"{_LOOK} n.nspname = %s and c.relname = %s", (folder, name)).fetchone()
    return None if row is None else _table(db, row)


def shape_query(oid: int) -> str:
    """What the catalogue says of a table, as a text that is another one when its columns, keys, rules, names or rights
    have changed."""
    parts = [
        f"(select string_agg({number} || ':' || x.xmin, ',' order by {number}) from {table} x where x.{of} = c.oid)"
        for table, of, number in (
            ("pg_attribute", "attrelid", "x.attnum"),
            ("pg_index", "indrelid", "x.indexrelid"),
            ("pg_constraint", "conrelid", "x.oid"),
        )
    ]
    return (
        f"select concat_ws(' ', c.xmin, n.nspname, c.relname, row_security_active(c.oid), {', '.join(parts)}) "
        f"from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = {oid}"
    )


def shape(db: Connection, oid: int) -> str | None:
    """None for a table that is gone."""
    row = db.execute(shape_query(oid)).fetchone()
    return None if row is None else str(row[0])


def _like(text: str | None, same: str) -> str | None:
    if text is None or same == "=":
        return text
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _readings(name: str) -> Iterable[tuple[str | None, str]]:
    """The pairs (schema, table) that a name may mean."""
    folder, dot, table = name.partition(".")
    if dot and folder and table:
        yield _bare(folder), _bare(table)
    yield None, _bare(name)


def _bare(name: str) -> str:
    if len(name) > 2 and name[0] == name[-1] == '"':
        return name[1:-1].replace('""', '"')
    return name


def bare_name(name: str) -> str:
    """The table's own name, without its schema."""
    return next(iter(_readings(name)))[1]


def hidden_in(db: Connection, name: str) -> str | None:
    """A schema with the table that the user has no right to use."""
    for folder, table in _readings(name):
        row = db.execute(
            "select n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            "where c.relname = %s and (%s::text is null or n.nspname = %s) "
            "and not has_schema_privilege(n.oid, 'usage') limit 1",
            (table, folder, folder),
        ).fetchone()
        if row is not None:
            return str(row[0])
    return None


def new_schema(db: Connection, name: str) -> str | None:
    """The schema in the table's name, if it is missing and the user may create it."""
    folder, _ = next(iter(_readings(name)))
    if folder is None:
        return None
    row = db.execute("select has_database_privilege(current_database(), 'create')").fetchone()
    return folder if row and row[0] else None


def new_place(db: Connection, name: str) -> tuple[str | None, str]:
    """(schema, name) of a table to be created; None if the search path has no schema."""
    folder, table = next(iter(_readings(name)))
    if folder is not None:
        rows = db.execute("select nspname from pg_namespace where nspname = %s", (folder,))
        return (folder, table) if rows.fetchone() else (None, table)
    current = db.execute("select current_schema()").fetchone()
    return (current[0] if current else None), table


def _table(db: Connection, row: Sequence[Any]) -> Table:
    oid, folder, name, kind, rows, pages, rights, row_security, has_heirs = row
    listed = db.execute(
        "select a.attname, a.atttypid, a.atttypmod, format_type(a.atttypid, a.atttypmod), "
        "a.attnotnull, a.attgenerated <> '', coalesce(l.collisdeterministic, true), a.attnum, "
        "a.attlen = -1 and a.attstorage <> 'p' "
        "from pg_attribute a left join pg_collation l on l.oid = a.attcollation "
        "where a.attrelid = %s and a.attnum > 0 and not a.attisdropped order by a.attnum",
        (oid,),
    ).fetchall()
    types = find_types(db, {row[1] for row in listed})
    columns = {
        name: PgColumn(
            name, types[type_], modifier, label, not_null, generated, exact, number, large
        )
        for name, type_, modifier, label, not_null, generated, exact, number, large in listed
    }
    indexes = db.execute(
        "select array(select a.attname::text from unnest(i.indkey[0:i.indnkeyatts - 1]) with ordinality "
        "k(n, o) join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.n order by k.o), "
        "i.indisprimary from pg_index i where i.indrelid = %s and i.indisunique and i.indisvalid and i.indimmediate "
        "and i.indpred is null and i.indexprs is null order by i.indisprimary desc, i.indnkeyatts, "
        "i.indexrelid",
        (oid,),
    ).fetchall()
    uniques = [tuple(names) for names, _ in indexes]
    primary = next((tuple(names) for names, is_primary in indexes if is_primary), ())
    keys = tuple(names for names in uniques if all(columns[n].not_null for n in names))
    estimate = rows if rows and rows > 0 else pages * 60
    table = Table(
        oid, folder, name, kind, columns, keys, tuple(map(frozenset, uniques)), int(estimate), int(pages),
        frozenset(rights), bool(row_security), primary, keys, primary,
    )  # fmt: skip
    # The rows of others are read too, and may have equal keys.
    return replace(table, keys=(), primary=()) if has_heirs else table


def table_names(db: Connection) -> list[str]:
    """The tables and views that the user can see, without the server's and DataFlare's own."""
    rows = db.execute(
        "select case when n.nspname = 'public' then c.relname else n.nspname || '.' || c.relname end "
        "from pg_class c join pg_namespace n on n.oid = c.relnamespace "
        "where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname !~ '^pg_' "
        "and n.nspname <> 'information_schema' and c.relname !~ '^_dataflare_' order by 1 limit %s",
        (_SHOWN_MAX,),
    ).fetchall()
    return [str(name) for (name,) in rows]


def tables_and_views(db: Connection) -> list[Entry]:
    """What the user may read, without the server's and DataFlare's own tables; of a partitioned table, only the
    whole."""
    found = db.execute(
        "select case when n.nspname = 'public' then c.relname else n.nspname || '.' || c.relname end, "
        "case c.relkind when 'v' then 'view' when 'm' then 'view' else 'table' end, "
        "case when c.relkind in ('r', 'm') and c.reltuples >= 0 then c.reltuples::bigint end, "
        "c.relname, n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace "
        "where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname !~ '^pg_' and not c.relispartition "
        "and n.nspname <> 'information_schema' and c.relname !~ '^_dataflare_' "
        "and has_schema_privilege(n.oid, 'usage') "
        "and (has_table_privilege(c.oid, 'select') or has_any_column_privilege(c.oid, 'select')) "
        "order by 1"
    ).fetchall()
    return [
        Entry(str(name), str(kind), {"table": str(name)}, rows, str(table), str(schema))
        for name, kind, rows, table, schema in found
    ]


def find_types(db: Connection, oids: Iterable[int]) -> dict[int, PgType]:
    """The types, with those of array items and below domains."""
    rows = db.execute(
        "with recursive wanted(oid) as (select unnest(%s::oid[]) union "
        "select case when t.typtype = 'd' then t.typbasetype else t.typelem end "
        "from wanted w join pg_type t on t.oid = w.oid "
        "where t.typtype = 'd' or (t.typcategory = 'A' and t.typelem <> 0)) "
        "select t.oid, t.typname, t.typtype::text, format_type(t.oid, -1), "
        "case when t.typcategory = 'A' and t.typtype <> 'd' then t.typelem else 0 end, "
        "case when t.typtype = 'd' then t.typbasetype else 0 end, t.typtypmod "
        "from wanted w join pg_type t on t.oid = w.oid",
        (sorted(oids),),
    ).fetchall()
    by_oid = {row[0]: row for row in rows}

    def type_of_oid(oid: int) -> PgType:
        _, name, kind, label, item, base, modifier = by_oid[oid]
        inner = type_of_oid(item) if item in by_oid else None
        below = type_of_oid(base) if base in by_oid else None
        return PgType(oid, name, kind, label, inner, below, modifier)

    return {oid: type_of_oid(oid) for oid in by_oid}


class Described(Struct, frozen=True):
    """The result columns and parameters of a statement. columns: name, type, modifier."""

    columns: tuple[tuple[str, PgType, int], ...]
    params: tuple[PgType, ...]


def describe(db: Connection, sql: str) -> Described:
    """Let the server describe a statement with $1, $2 ... without running it."""
    low = db.pgconn
    for step in (low.prepare, low.describe_prepared):
        result = step(b"", sql.encode()) if step == low.prepare else step(b"")  # type: ignore[call-arg]
        if result.status != ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result, encoding="utf-8")
    fields = [
        ((result.fname(i) or b"").decode(), result.ftype(i), result.fmod(i))
        for i in range(result.nfields)
    ]
    params = [result.param_type(i) for i in range(result.nparams)]
    types = find_types(db, {oid for _, oid, _ in fields} | set(params))
    return Described(
        tuple((name, types[oid], modifier) for name, oid, modifier in fields),
        tuple(types[oid] for oid in params),
    )
