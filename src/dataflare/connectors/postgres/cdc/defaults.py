"""Columns that were added with a default: what the rows from before have in them.

Always true: a row from before has the value that the server gives it, or the run ends and says so.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from dataflare.connectors.postgres.catalog import Connection
from dataflare.connectors.postgres.cdc.following import Followed
from dataflare.connectors.postgres.cdc.wire import TEXT_SETTINGS
from dataflare.errors import DataError
from dataflare.sdk.sql.read_again import READ_AGAIN


class Default(Struct, frozen=True):
    """Of a column. text: the value that rows from before the column have, as the log would write it; None: it is not one
    value for all of them, or there is none."""

    text: str | None


def defaults(db: Connection, table: int) -> Mapping[str, Default | None]:
    """By column that the table has now, its default; None: it has none. Changes settings of the session."""
    for setting in TEXT_SETTINGS.items():
        db.execute("select set_config(%s, %s, false)", setting)
    rows = db.execute(
        "select attname::text, atthasdef, (attmissingval::text::text[])[1] from pg_attribute where attrelid = %s "
        "and attnum > 0 and not attisdropped",
        (table,),
    ).fetchall()
    return {
        name: Default(text) if has_default or text is not None else None
        for name, has_default, text in rows
    }


def refuse_default(table: Followed, server: str, name: str, default: Default | None) -> None:
    """Raise an error for a column with a default that the rows from before cannot be given."""
    if default is None or (default.text is not None and not table.has_old_rows):
        return
    why = (
        "which cannot be told for each of the rows that were read before"
        if default.text is None
        else "and with REPLICA IDENTITY FULL the rows that were read before cannot be given once more"
    )
    raise DataError(
        f"column '{name}' of {table.reading.relation.label} in {server} was added with a default, {why}",
        code="E0545",
        step=table.reading.step,
        help=READ_AGAIN,
    )


def refuse_renamed(table: Followed, server: str, before: Mapping[str, int], highest: int) -> None:
    """Raise DataError (E0545) for a column whose rows from before were given without its values, because it had another name or is
    another column. before: by column that the rows had so far, its number. highest: the greatest number of then."""
    for column in table.columns:
        number, then = table.numbers[column.name], before.get(column.name)
        if then is None and 0 < number <= highest:
            why = "had another name"
        elif then and then != number:
            why = "was another one, which was dropped"
        else:
            continue
        raise DataError(
            f"column '{column.name}' of {table.reading.relation.label} in {server} {why}: the rows that were read before do "
            "not have its values",
            code="E0545",
            step=table.reading.step,
            help=READ_AGAIN,
        )
