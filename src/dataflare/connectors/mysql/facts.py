"""Facts about a server and its tables, for `dataflare check`."""

from __future__ import annotations

from collections.abc import Mapping

from dataflare.connectors.mysql import tables
from dataflare.connectors.mysql.connection import Db, Server
from dataflare.connectors.mysql.errors import mysql_errors


def server_facts(db: Db) -> dict[str, str]:
    """Version, user, encryption, and what makes commits less durable. Raises pymysql's errors."""
    [(user, flush, local)] = db.rows(
        "select current_user(), @@innodb_flush_log_at_trx_commit, @@local_infile"
    )
    facts = {
        "server": f"{db.product} {db.version}",
        "user": str(user),
        "encryption": "TLS" if db.is_encrypted else "none",
    }
    if flush != 1:
        facts["durability"] = (
            f"innodb_flush_log_at_trx_commit is {flush}: a crash of the server may lose the last second"
        )
    if not local:
        facts["local_infile"] = "OFF: a destination writes by INSERT, which is slower"
    return facts


def destination_facts(server: Server, name: str) -> Mapping[str, str]:
    """The facts about the table of a destination. Blocking."""
    db = server.connect("dataflare check")
    try:
        with mysql_errors(server.label, f"table '{name}'"):
            facts = server_facts(db)
            place = tables.find_place(db, server.database, name)
            if place is None:
                facts["table"] = "missing; it will be created"
            else:
                facts["table"] = place.label
                facts["engine"] = place.engine or "none: it is a view"
                facts["rows"] = f"about {place.rows:,}"
            return facts
    finally:
        db.close()
