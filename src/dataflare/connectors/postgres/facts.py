"""What a look at a server tells, for people who check whether a workflow can run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dataflare.connectors.postgres import catalog
from dataflare.connectors.postgres.connection import Server
from dataflare.connectors.postgres.errors import postgres_errors
from dataflare.connectors.postgres.relation import Relation
from dataflare.connectors.sql.marker import MARKER_TABLE
from dataflare.sdk.source import Replay


def server_facts(db: catalog.Connection) -> dict[str, str]:
    """Version, user, encryption, and whether it can be written at all. Raises foreign errors."""
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


def source_facts(server: Server, relation: Relation, replay: Replay) -> Mapping[str, str]:
    """Of a source that was found. Blocking."""
    db = server.connect("dataflare check")
    try:
        with postgres_errors(server.label, relation.label):
            found = server_facts(db)
    finally:
        db.close()
    found["reads"] = relation.label
    found["columns"] = str(len(relation.columns))
    if relation.table is not None:
        found["rows"] = f"about {relation.rows:,}"
        found["key"] = ", ".join(relation.key) or "none: read again from the start after a failure"
    found["replay"] = replay.value.replace("_", " ")
    return found


def destination_facts(server: Server, name: str, mode: str) -> Mapping[str, Any]:
    """Of the table that a destination writes, and what is missing. Blocking."""
    db = server.connect("dataflare check")
    try:
        with postgres_errors(server.label, f"table '{name}'"):
            found = server_facts(db)
            table = catalog.find_table(db, name)
            if table is None:
                folder, _ = catalog.new_place(db, name)
                found["table"] = "missing; it will be made"
                missing = [] if _may_create(db, folder) else [f"the right to create in {folder}"]
            else:
                found["table"] = table.label
                found["rows"] = f"about {table.rows:,}"
                found["rights"] = ", ".join(sorted(table.rights)) or "none"
                missing = [f"the right to {r}" for r in needed(mode) if r not in table.rights]
                known = catalog.find_exact(db, table.folder, MARKER_TABLE)
                if known is None and not _may_create(db, table.folder):
                    missing.append(f"the right to create {MARKER_TABLE} in {table.folder}")
            if mode in ("upsert", "mirror") and not _may_stage(db):
                missing.append("the right to make temporary tables")
            found["missing"] = ", ".join(missing) or "nothing"
            return found
    finally:
        db.close()


def needed(mode: str) -> tuple[str, ...]:
    """The rights on a table that writing it takes."""
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
