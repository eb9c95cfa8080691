"""Rows that are deleted and stay: a column has the time of it, and is NULL in rows that are there. Pure.

Always true: a row that is marked keeps its time; one that comes again is there again.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dataflare.errors import ConfigError
from dataflare.model.types import TIMESTAMP_UTC, Field, Schema
from dataflare.sdk.sql.names import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dataflare.sdk.sql.store import Target


def with_deleted_at(step: str, schema: Schema, column: str | None) -> Schema:
    """The columns of a table whose rows stay when they are deleted. Raises ConfigError (E0411) where the rows have that column."""
    if column is None:
        return schema
    if column in schema:
        raise ConfigError(
            f"'deleted_at' writes the column '{column}', and the rows have one of that name",
            code="E0411",
            step=step,
            help=f"give it another name, or drop it in a map step: drop: ['{column}']",
        )
    return Schema((*schema, Field(column, TIMESTAMP_UTC)))


def effects(column: str | None) -> list[str]:
    """What `plan` says of it."""
    return [] if column is None else [f"rows that are deleted stay, with the time in '{column}'"]


def marking(target: Target, place: str, rows: str, same: Sequence[str], now: str) -> str:
    """The statement that marks the rows t of a table. rows: SQL behind FROM, or nothing. same: conditions. now: the
    time as a literal."""
    assert target.deleted_at is not None
    source = f" from {rows}" if rows else ""
    column = quoted(target.deleted_at)
    conditions = " and ".join([*same, f"t.{column} is null"])
    return f"update {place} as t set {column} = {now}{source} where {conditions}"


def is_there(target: Target) -> str:
    """The condition that a row t is there."""
    return "true" if target.deleted_at is None else f"t.{quoted(target.deleted_at)} is null"


def now() -> str:
    """The time, as a literal of SQL with its zone."""
    return f"'{datetime.now(UTC).isoformat(sep=' ', timespec='microseconds')}'"


def now_in_utc() -> str:
    """The time in UTC, as a literal of SQL without a zone."""
    return now().replace("+00:00", "")
