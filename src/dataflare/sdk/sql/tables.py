"""The table that a destination writes: what is known of it, and what rows it cannot take. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from dataflare.errors import DataError, SystemError_, did_you_mean
from dataflare.model.types import DataType, Field
from dataflare.sdk.sql.clocks import has_other_clock, other_clock
from dataflare.sdk.sql.names import generated_column, listed, quoted
from dataflare.sdk.sql.store import Target


class Table(Struct, frozen=True):
    """An existing table or view. place: its full name, quoted. columns: declared type by name. key: its
    primary key. uniques: the sets of columns that are unique. generated: the columns that the database
    computes. schema: the schema that it is in, where the database has schemas."""

    name: str
    place: str
    view: bool
    columns: Mapping[str, str]
    key: tuple[str, ...] = ()
    uniques: tuple[frozenset[str], ...] = ()
    generated: frozenset[str] = frozenset()
    schema: str = ""


def view_error(table: str, label: str) -> SystemError_:
    """The error for a view."""
    return SystemError_(
        f"'{table}' in {label} is a view, not a table",
        code="E0604",
        help="write to a table, or choose another name",
    )


def refuse_generated(target: Target, table: Table) -> None:
    """Raise DataError (E0511) if values arrive for a column that the database computes."""
    generated = {name.casefold() for name in table.generated}
    for field in target.schema:
        if field.name.casefold() in generated:
            raise generated_column(field.name, f"table '{table.name}'")


def refuse_other_clocks(
    target: Target, table: Table, type_of: Callable[[str], DataType | None]
) -> None:
    """Raise DataError (E0511) for wall clocks that meet a column of instants, and the reverse. type_of:
    the type of a declaration."""
    by_name = {name.casefold(): (name, declared) for name, declared in table.columns.items()}
    for field in target.schema:
        name, declared = by_name.get(field.name.casefold(), ("", ""))
        column = type_of(declared) if name else None
        if column is not None and has_other_clock(field.type, column):
            raise other_clock(name, field.type, table.name, declared)


def refuse_bytes_in_json(target: Target, system: str, is_json: Callable[[DataType], bool]) -> None:
    """Raise DataError (E0511) for bytes inside a list or a struct that is stored as JSON."""
    for field in target.schema:
        if is_json(field.type) and "binary" in str(field.type):
            raise DataError(
                f"column '{field.name}' is {field.type}, and {system} stores it as JSON, which has "
                "no bytes",
                code="E0511",
                help=f"leave it out with map: drop: [{field.name}]",
            )


def missing_columns(target: Target, columns: Sequence[str], table: str, label: str) -> list[Field]:
    """The fields that the table does not have; the case of names is ignored. Raises SystemError_ if there
    are some and they may not be added."""
    names = {name.casefold() for name in columns}
    missing = [field for field in target.schema if field.name.casefold() not in names]
    if missing and not target.create_table:
        listed_names = ", ".join(f"'{field.name}'" for field in missing)
        raise SystemError_(
            f"table '{table}' in {label} has no column {listed_names}",
            code="E0606",
            notes=[f"it has: {', '.join(columns)}"],
            help=did_you_mean(missing[0].name, columns) or "set create_table: true to let it grow",
        )
    return missing


def unique_index(target: Target, table: Table, shortened: Callable[[str], str] = str) -> str | None:
    """The statement that makes the key unique, or None if it is unique already. shortened: a name that the
    database takes."""
    key = {name.casefold() for name in target.key}
    if any({name.casefold() for name in unique} == key for unique in table.uniques):
        return None
    name = "_dataflare_key_" + "_".join([table.name, *target.key])
    return f"create unique index {quoted(shortened(name))} on {table.place} ({listed(target.key)})"


def not_there(target: Target, key: Sequence[Any]) -> DataError:
    """Of a row that is not in the table only some values are known."""
    shown = ", ".join(f"{n} = {v!r}" for n, v in zip(target.key, key, strict=True))
    return DataError(
        f"table '{target.table}' has no row with {shown}, and the log does not have all values of it: large ones did not "
        "change",
        code="E0554",
        help="another program deleted it, or it was refused before: change these values in the source too, or run with "
        "--fresh",
    )


def several_rows(target: Target, table: str, notes: Sequence[str] = ()) -> DataError:
    """The error for a table that has several rows for one key."""
    return DataError(
        f"table '{table}' has several rows for one key ({', '.join(target.key)}), "
        f"so mode '{target.mode}' cannot distinguish them",
        code="E0510",
        notes=notes,
        help="remove the duplicates, or choose other key columns",
    )
