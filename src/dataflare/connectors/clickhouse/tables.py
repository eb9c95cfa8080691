"""What the server's catalogue says of tables."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from dataflare.connectors.clickhouse.connection import Client, Server, literal
from dataflare.connectors.clickhouse.types import escaped
from dataflare.errors import SystemError_
from dataflare.sdk.catalog import Entry
from dataflare.sdk.sql.names import missing_table

_ENGINE = re.compile(r"^(?:Replicated|Shared)?(\w*?)MergeTree$")


class Table(Struct, frozen=True):
    """A table or view. place: its full name, quoted. columns: declared type by name. computed: columns that
    the server computes. settings: of its engine, as far as they were set."""

    database: str
    name: str
    place: str
    engine: str
    engine_full: str
    sorting_key: str
    rows: int
    uuid: str
    columns: Mapping[str, str]
    computed: frozenset[str] = frozenset()
    constraints: bool = False

    @property
    def label(self) -> str:
        return f"{self.database}.{self.name}"

    @property
    def view(self) -> bool:
        return self.engine.endswith("View") or self.engine == "Dictionary"

    @property
    def family(self) -> str | None:
        """Of a MergeTree '', of a ReplacingMergeTree 'Replacing', and so on; None for other engines."""
        match = _ENGINE.match(self.engine)
        return None if match is None else match[1]

    @property
    def replicated(self) -> bool:
        return self.engine.startswith(("Replicated", "Shared"))

    def setting(self, name: str) -> str | None:
        """A setting in the table's definition."""
        match = re.search(rf"\b{name}\s*=\s*'?([\w.]+)", self.engine_full)
        return None if match is None else match[1]

    @property
    def version_column(self) -> str | None:
        """Of a ReplacingMergeTree, the column that tells the newest row."""
        return next(iter(self._replaced_by), None)

    @property
    def deleted_column(self) -> str | None:
        """Of a ReplacingMergeTree, the column that marks a row as deleted."""
        return next(iter(self._replaced_by[1:]), None)

    @property
    def _replaced_by(self) -> list[str]:
        inside = re.match(r"^\w+\((.*?)\)(?:\s|$)", self.engine_full)
        if self.family != "Replacing" or inside is None:
            return []
        names = [each.strip() for each in inside[1].split(",")]
        # A replicated table may name its path and replica first.
        return [each.strip("`") for each in names if each and not each.startswith("'")]


def split_name(name: str, database: str) -> tuple[str, str]:
    """Database and name of a table."""
    first, dot, rest = name.partition(".")
    return (first, rest) if dot else (database, name)


def place_of(name: str, database: str) -> str:
    database, name = split_name(name, database)
    return f"{escaped(database)}.{escaped(name)}"


def find_table(client: Client, database: str, name: str) -> Table | None:
    """None if it does not exist, or the user may not see it."""
    database, name = split_name(name, database)
    where = f"database = {literal(database)} and name = {literal(name)}"
    rows = client.rows(
        "select engine, engine_full, sorting_key, coalesce(total_rows, 0), toString(uuid), create_table_query "
        f"from system.tables where {where}"
    )
    if not rows:
        return None
    [(engine, full, sorting_key, count, uuid, creation)] = rows
    place = f"{escaped(database)}.{escaped(name)}"
    columns, computed = {}, set()
    for column, type_, default in client.rows(
        "select name, type, default_kind from system.columns where "
        f"database = {literal(database)} and table = {literal(name)} order by position"
    ):
        if default == "EPHEMERAL":
            continue
        columns[column] = type_
        if default in ("MATERIALIZED", "ALIAS"):
            computed.add(column)
    return Table(
        database=database, name=name, place=place, engine=engine, engine_full=full,
        sorting_key=_without_brackets(sorting_key), rows=int(count), uuid=uuid, columns=columns,
        computed=frozenset(computed), constraints=" CONSTRAINT " in creation,
    )  # fmt: skip


def tables_and_views(client: Client, database: str) -> list[Entry]:
    """What the user may see of a database, without DataFlare's own tables and those of materialized views."""
    rows = client.rows(
        f"select name, engine, total_rows from system.tables where database = {literal(database)} "
        "and not startsWith(name, '_dataflare_') and not startsWith(name, '.inner') and not is_temporary order by name"
    )
    return [
        Entry(
            name,
            "view" if "View" in engine else "table",
            {"table": name if "." not in name else f"{database}.{name}"},
            None if count is None else int(count),
            name,
            database,
        )
        for name, engine, count in rows
    ]


def _without_brackets(text: str) -> str:
    """A key of one part, without the brackets around it."""
    return (
        text[1:-1] if text.startswith("(") and text.endswith(")") and "(" not in text[1:] else text
    )


def describe(client: Client, source: str) -> dict[str, str]:
    return dict(described_rows(client, source))


def described_rows(client: Client, source: str) -> list[tuple[str, str]]:
    """Names and types of the columns of a table, or of a query in brackets."""
    return [(row[0], row[1]) for row in client.rows(f"describe {source}")]


def missing(client: Client, server: Server, name: str) -> SystemError_:
    """The error for a table that does not exist."""
    database, short = split_name(name, server.database)
    names = [n for (n,) in client.rows(
        f"select name from system.tables where database = {literal(database)} order by name limit 1000"
    )]  # fmt: skip
    return missing_table(short, f"{server.host}:{server.port}/{database}", names)
