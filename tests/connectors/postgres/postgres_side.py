"""What runs that are killed need to know of PostgreSQL."""

from __future__ import annotations

import psycopg
from killing import Side


def side(dsn: str) -> Side:
    return Side(
        "postgres",
        dsn,
        lambda: psycopg.connect(dsn, autocommit=True),
        "'public'",
        "select distinct on (customer) customer, id, amount from added order by customer, id desc",
        "select relname from pg_class where relname like '\\_dataflare\\_new%'",
    )
