"""What the server's catalogue says of tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import xxhash
from msgspec import Struct, field

from dataflare.connectors.mysql.connection import VALUE, Db, Server
from dataflare.connectors.mysql.types import Declared, declared, fits, room_of
from dataflare.errors import ConfigError, DataError, SystemError_
from dataflare.sdk.catalog import Entry
from dataflare.sdk.sql import tables as kit
from dataflare.sdk.sql.clocks import has_other_clock, other_clock
from dataflare.sdk.sql.growth import Room, Wider, characters
from dataflare.sdk.sql.names import missing_table, quoted
from dataflare.sdk.sql.store import Target

_VARCHAR_MAX = 4096
NAME_MAX = 64
"""The most characters of a name."""


class Place(Struct, frozen=True):
    """A table or view. schema: its database. rows: an estimate."""

    schema: str
    name: str
    view: bool
    engine: str
    rows: int
    versioned: bool = False

    @property
    def label(self) -> str:
        return f"{self.schema}.{self.name}"


class Table(kit.Table, frozen=True):
    """declarations: the parts of the declared types. uniques_all: how many unique indexes there are, also
    those on parts of columns. generates: the column with AUTO_INCREMENT."""

    engine: str = "InnoDB"
    declarations: Mapping[str, Declared] = field(default_factory=dict)
    uniques_all: int = 0
    generates: str | None = None

    def other_uniques(self, key: Sequence[str]) -> int:
        """How many unique indexes there are that are not on these columns."""
        folded = {name.casefold() for name in key}
        same = sum({name.casefold() for name in each} == folded for each in self.uniques)
        return self.uniques_all - min(same, 1)


def split_name(name: str, database: str) -> tuple[str, str]:
    """The database and the name of a table. A name with a dot is written in backticks."""
    pieces = re.fullmatch(r"(?:(`(?:[^`]|``)+`|[^`.]+)\.)?(`(?:[^`]|``)+`|[^`.]+)", name)
    if pieces is None:
        raise ConfigError(
            f"'{name}' is not the name of a table",
            code="E0411",
            help="write name, or database.name; a name with a dot in backticks",
        )
    first, second = pieces.groups()
    return (_bare(first) if first else database), shortened(_bare(second))


def shortened(name: str) -> str:
    """A name of DataFlare's own that is too long for the server, with a hash for its end."""
    if len(name) <= NAME_MAX or not name.startswith("_dataflare_"):
        return name
    return f"{name[: NAME_MAX - 17]}_{xxhash.xxh3_64_hexdigest(name.encode())}"


def _bare(name: str) -> str:
    return name[1:-1].replace("``", "`") if name.startswith("`") else name


def spelled(name: str, database: str) -> str:
    """A table's name in full, in double quotes."""
    schema, table = split_name(name, database)
    return f"{quoted(schema)}.{quoted(table)}"


def find_place(db: Db, database: str, name: str) -> Place | None:
    """The table or view of that name, or None. Raises pymysql's errors."""
    schema, table = split_name(name, database)
    rows = db.rows(
        "select table_schema, table_name, table_type, coalesce(engine, ''), coalesce(table_rows, 0), "
        "@@lower_case_table_names from information_schema.tables "
        f"where table_schema = {VALUE} and table_name = {VALUE}",
        [schema, table],
    )
    for found_schema, found, kind, engine, count, lower in rows:
        if found == table or lower:
            versioned = kind == "SYSTEM VERSIONED"
            return Place(found_schema, found, "VIEW" in kind, engine, int(count), versioned)
    return None


def names(db: Db, database: str) -> list[str]:
    rows = db.rows(
        f"select table_name from information_schema.tables where table_schema = {VALUE} "
        "order by table_name",
        [database],
    )
    return [str(name) for (name,) in rows if not str(name).startswith("_dataflare_")]


def tables_and_views(db: Db, database: str) -> list[Entry]:
    """What the user may see of a database, without DataFlare's own tables."""
    found = db.rows(
        "select table_name, table_type, table_rows from information_schema.tables "
        f"where table_schema = {VALUE} and table_type in ('BASE TABLE', 'VIEW', 'SYSTEM VERSIONED') "
        "and table_name not like '\\_dataflare\\_%%' order by table_name",
        [database],
    )
    entries = []
    for name, type_, rows in found:
        plain = re.fullmatch("[^`.]+", name) is not None
        shown = name if plain else f"`{name.replace('`', '``')}`"
        kind = "view" if type_ == "VIEW" else "table"
        count = None if rows is None else int(rows)
        entries.append(Entry(shown, kind, {"table": shown}, count, name, database))
    return entries


def missing(db: Db, server: Server, name: str) -> SystemError_:
    schema, table = split_name(name, server.database)
    if schema != server.database and not _has_schema(db, schema):
        return SystemError_(
            f"no database '{schema}' in {server.label}, or the user may not see it",
            code="E0604",
            help="create it, or grant the user a right on it",
        )
    return missing_table(table, server.label, names(db, schema))


def _has_schema(db: Db, schema: str) -> bool:
    sql = f"select 1 from information_schema.schemata where schema_name = {VALUE}"
    return bool(db.rows(sql, [schema]))


def keys(db: Db, place: Place) -> list[tuple[str, ...]]:
    """The keys of a table that identify a row: the primary key first, then unique indexes without NULL."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for row in _indexes(db, place):
        found.setdefault(row[0], []).append(row)
    whole = [
        (index, tuple(row[1] for row in rows))
        for index, rows in found.items()
        if all(row[1] is not None and row[2] is None and row[3] != "YES" for row in rows)
    ]
    return [key for _, key in sorted(whole, key=lambda each: each[0] != "PRIMARY")]


def _indexes(db: Db, place: Place) -> list[tuple[Any, ...]]:
    """Of unique indexes: name, column, the length of its prefix, whether it takes NULL."""
    return db.rows(
        "select index_name, column_name, sub_part, nullable from information_schema.statistics "
        f"where non_unique = 0 and table_schema = {VALUE} and table_name = {VALUE} "
        "order by index_name, seq_in_index",
        [place.schema, place.name],
    )


def json_columns(db: Db, place: Place) -> set[str]:
    """The columns of a table of MariaDB whose text must be JSON."""
    if not db.is_mariadb or place.view:
        return set()
    rows = db.rows(
        "select check_clause from information_schema.check_constraints "
        f"where constraint_schema = {VALUE} and table_name = {VALUE}",
        [place.schema, place.name],
    )
    # The server quotes names as the session's sql_mode does.
    clauses = [re.fullmatch(r"json_valid\(([`\"])(.+)\1\)", str(text)) for (text,) in rows]
    return {each[2].replace(each[1] * 2, each[1]) for each in clauses if each}


def find_table(db: Db, database: str, name: str) -> Table | None:
    """All that a destination needs to know of a table. Raises pymysql's errors."""
    place = find_place(db, database, name)
    if place is None:
        return None
    rows = db.rows(
        "select column_name, column_type, extra, coalesce(generation_expression, '') "
        f"from information_schema.columns where table_schema = {VALUE} and table_name = {VALUE} "
        "order by ordinal_position",
        [place.schema, place.name],
    )
    json = json_columns(db, place)
    columns = {str(row[0]): "json" if row[0] in json else str(row[1]) for row in rows}
    indexes: dict[str, list[tuple[Any, ...]]] = {}
    for row in _indexes(db, place):
        indexes.setdefault(row[0], []).append(row)
    whole = {
        index: tuple(str(row[1]) for row in parts)
        for index, parts in indexes.items()
        if all(row[1] is not None and row[2] is None for row in parts)
    }
    return Table(
        name=place.label,
        place=f"{quoted(place.schema)}.{quoted(place.name)}",
        view=place.view,
        columns=columns,
        key=whole.get("PRIMARY", ()),
        uniques=tuple(frozenset(each) for each in whole.values()),
        generated=frozenset(str(row[0]) for row in rows if row[3]),
        schema=place.schema,
        engine=place.engine,
        declarations={n: Declared.of(text) for n, text in columns.items()},
        uniques_all=len(indexes),
        generates=next((str(row[0]) for row in rows if "auto_increment" in str(row[2])), None),
    )


def refuse_misfits(target: Target, table: Table) -> None:
    """Raise an error if the table cannot be written exactly once, or cannot have rows of this schema."""
    if table.engine.lower() != "innodb":
        raise ConfigError(
            f"table '{table.name}' has the engine {table.engine or 'of another kind'}, which has no "
            "transactions",
            code="E0411",
            step=target.step or None,
            help=f"alter table {table.name} engine = InnoDB, or write another table",
        )
    kit.refuse_generated(target, table)
    by_name = {name.casefold(): name for name in table.columns}
    for each in target.schema:
        name = by_name.get(each.name.casefold())
        if name is None:
            continue
        into, text = table.declarations[name], table.columns[name]
        if not fits(each.type, into):
            raise DataError(
                f"column '{name}' of table '{table.name}' is {text}, and {each.type} values arrive",
                code="E0511",
                help=f"convert them with map: cast: {{{each.name}: ...}}",
            )
        if into.type is not None and has_other_clock(each.type, into.type):
            raise other_clock(name, each.type, table.name, text)


def rooms(db: Db, table: kit.Table) -> dict[str, Room]:
    """What the columns hold that can become wider. Not of columns with a default, a comment or a rule of their own,
    because MODIFY would drop it."""
    schema, _, bare = table.name.partition(".")
    plain = db.rows(
        f"select column_name, column_type from information_schema.columns where table_schema = {VALUE} "
        f"and table_name = {VALUE} and extra = '' and column_comment = '' "
        "and coalesce(generation_expression, '') = '' "
        "and (column_default is null or column_default = 'NULL')",
        [schema, bare],
    )
    found = {str(name): room_of(str(text)) for name, text in plain}
    return {name: room for name, room in found.items() if room is not None}


def growth(db: Db, table: kit.Table, name: str, wider: Wider) -> str:
    """The statement that makes a column of `rooms` wider."""
    schema, _, bare = table.name.partition(".")
    [(real, nullable, charset, collation)] = db.rows(
        "select column_name, is_nullable, character_set_name, collation_name "
        f"from information_schema.columns where table_schema = {VALUE} and table_name = {VALUE} "
        f"and column_name = {VALUE}",
        [schema, bare, name],
    )
    if isinstance(wider, int):
        length = characters(wider)
        kind = f"varchar({length})" if length <= _VARCHAR_MAX else "longtext"
        kind += f" character set {charset} collate {collation}"
    else:
        kind = declared(wider)
    rule = "not null" if nullable == "NO" else "null"
    return f"alter table {table.place} modify column {quoted(str(real))} {kind} {rule}"


def refuse_long_names(target: Target) -> None:
    """The server refuses longer names, when the run has begun already."""
    long = next((n for n in target.schema.names if len(n) > NAME_MAX or n.endswith(" ")), None)
    if long is not None:
        raise ConfigError(
            f"column name '{long}' has {len(long)} characters, or ends with a blank: MySQL takes names "
            f"of up to {NAME_MAX} characters without blanks at their end",
            code="E0411",
            step=target.step or None,
            help=f"rename it with map: rename: {{'{long}': ...}}",
        )


def creation(
    target: Target, place: str, *, extra: Sequence[str] = (), bytes_order: str
) -> list[str]:
    """The statement that creates a table for the rows. bytes_order: the collation that compares text by its
    bytes."""
    columns = [
        f"{quoted(f.name)} {declared(f.type, key=f.name in target.key)}" for f in target.schema
    ]
    columns += extra
    if target.key:
        columns.append(f"primary key ({', '.join(map(quoted, target.key))})")
    return [
        f"create table {place} ({', '.join(columns)}) engine = InnoDB row_format = dynamic "
        f"character set utf8mb4 collate {bytes_order}"
    ]
