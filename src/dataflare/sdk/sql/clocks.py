"""A wall clock (a timestamp without a zone) and an instant are two kinds of values.

A database makes one of the other by a zone that is not in the row: its session's, its server's, or none.
So a column takes only its own kind, in every database. The step `map` says the zone.
"""

from __future__ import annotations

from dataflare.errors import DataError
from dataflare.model.types import DataType


def has_other_clock(type_: DataType, column: DataType) -> bool:
    """Whether values of the type would need a zone to go into the column, at any depth."""
    if column.name == "timestamp" and type_.name in ("timestamp", "date"):
        if column.timezone is None:
            return type_.timezone is not None
        return type_.timezone is None
    if type_.name == "list" == column.name:
        assert type_.item is not None
        assert column.item is not None
        return has_other_clock(type_.item, column.item)
    if type_.name == "struct" == column.name:
        into = {field.name: field.type for field in column.fields}
        return any(f.name in into and has_other_clock(f.type, into[f.name]) for f in type_.fields)
    return False


def other_clock(name: str, type_: DataType, table: str, declaration: str) -> DataError:
    """The error for such a column."""
    if type_.timezone is None:
        why = "a time without a zone is not an instant until its zone is known"
        help_ = (
            f"if the times are in UTC, map: cast: {{{name}: 'timestamp[us, UTC]'}}; if not, "
            f"map: derive: {{{name}: \"to_utc({name}, 'Europe/Berlin')\"}}"
        )
    else:
        why = "an instant has another wall clock in each zone"
        help_ = (
            f"for the wall clock in UTC, map: cast: {{{name}: timestamp}}; for another zone, "
            f"map: derive: {{{name}: \"timezone('Europe/Berlin', {name})\"}}"
        )
    return DataError(
        f"column '{name}' of table '{table}' is {declaration}, and {type_} values arrive",
        code="E0511",
        notes=[why],
        help=help_,
    )
