"""The table of random writers, and how they write it."""

from __future__ import annotations

from typing import Any

import psycopg
from random_writers import Statements

COLUMNS = "id int, part text, name text, body text"
_IN_THE_WAY = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.UniqueViolation,
    psycopg.errors.DeadlockDetected,
)


def statements(dsn: str, *rare: str) -> Statements:
    def connect() -> Any:
        writer = psycopg.connect(dsn)
        writer.execute("set lock_timeout = '20ms'")
        writer.commit()
        return writer

    return Statements(
        connect,
        lambda error: isinstance(error, _IN_THE_WAY),
        "insert into t values (%s, %s, %s, %s) on conflict do nothing",
        rare=rare,
    )
