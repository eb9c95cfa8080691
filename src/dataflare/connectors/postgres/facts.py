"""Facts about a server and its tables, for `dataflare check`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dataflare.connectors.postgres import catalog
from dataflare.connectors.postgres.connection import Server
from dataflare.connectors.postgres.errors import postgres_errors
from dataflare.sdk.sql.marker import MARKER_TABLE


def server_facts(db: catalog.Connection) -> dict[str, str]:
    """Version, user, encryption, and whether the server can be written. Raises psycopg's errors."""
    row = db.execute(
        "select current_setting('server_version'), current_user::text, pg_is_in_recovery(), "
        "coalesce((select version from pg_stat_ssl where pid = pg_backend_pid() and ssl), '')"
    ).fetchone()
    assert row is not None
    version, user, standby, tls = row
    return {
        "server": f"PostgreSQL {version}" + (", a standby" if standby else ""),
        "user": user,
        "encryption": tls or "none",
    }


def destination_facts(server: Server, name: str, mode: str) -> Mapping[str, Any]:
    """The facts about the table of a destination, and its missing rights. Blocking."""
    db = server.connect("dataflare check")
    try:
        with postgres_errors(server.label, f"table '{name}'"):
            facts = server_facts(db)
            table = catalog.find_table(db, name)
            if table is None:
                folder, _ = catalog.new_place(db, name)
                facts["table"] = "missing; it will be created"
                missing = [] if _may_create(db, folder) else [f"the right to create in {folder}"]
            else:
                facts["table"] = table.label
                facts["rows"] = f"about {table.rows:,}"
                facts["rights"] = ", ".join(sorted(table.rights)) or "none"
                missing = [f"the right to {r}" for r in rights_for(mode) if r not in table.rights]
                marker_table = catalog.find_exact(db, table.folder, MARKER_TABLE)
                if marker_table is None and not _may_create(db, table.folder):
                    missing.append(f"the right to create {MARKER_TABLE} in {table.folder}")
            if mode in ("upsert", "mirror") and not _may_stage(db):
                missing.append("the right to make temporary tables")
            facts["missing"] = ", ".join(missing) or "nothing"
            return facts
    finally:
        db.close()


def rights_for(mode: str) -> tuple[str, ...]:
    """The rights on a table that are needed to write it."""
    return {
        "append": ("insert",),
        "overwrite": ("insert", "delete"),
        "upsert": ("select", "insert", "update"),
        "mirror": ("select", "insert", "update", "delete"),
    }[mode]


def _may_stage(db: catalog.Connection) -> bool:
    row = db.execute("select has_database_privilege(current_database(), 'temporary')").fetchone()
    return bool(row and row[0])


def _may_create(db: catalog.Connection, folder: str | None) -> bool:
    if folder is None:
        return False
    row = db.execute("select has_schema_privilege(%s, 'create')", (folder,)).fetchone()
    return bool(row and row[0])
