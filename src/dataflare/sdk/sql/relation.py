"""What a source of tables reads: a table, a view or a query, and the columns and rows that are wanted."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from dataflare.errors import ConfigError, SystemError_
from dataflare.model.types import DataType, Schema
from dataflare.sdk.sql.names import denied, is_folder, missing_column, missing_file, quoted

if TYPE_CHECKING:
    from dataflare.expr.sql import SqlText


class Column(Struct, frozen=True):
    """type: DataFlare's type, that the column is read as."""

    name: str
    type: DataType

    def selected(self) -> str:
        """The SQL of its value."""
        return quoted(self.name)

    def guarded(self) -> str | None:
        """The SQL for the text of a value that does not fit, else NULL; None if the value itself shows that."""
        return None


C = TypeVar("C", bound=Column)


class Relation(Struct, Generic[C], frozen=True):
    """source: the SQL after FROM. key: columns that order and identify its rows; empty if there are none.
    rowid: whether it is a table that can be read by ranges of its rowid. is_table: whether it is a table of a server,
    which can be divided into parts; rows: its rows, an estimate. primary: the columns of the primary key; empty where
    rows may share a key."""

    of_server: ClassVar[bool] = False
    """Whether a missing column is an error of the server's objects (E0604)."""

    label: str
    source: str
    columns: tuple[C, ...]
    key: tuple[str, ...] = ()
    rowid: bool = False
    is_table: bool = False
    rows: int = 0
    primary: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> C:
        """The column; the case of its name is ignored if only one column matches. Raises an error
        with the nearest name."""
        for column in self.columns:
            if column.name == name:
                return column
        folded = [c for c in self.columns if c.name.casefold() == name.casefold()]
        if len(folded) == 1:
            return folded[0]
        raise self.missing(name)

    def missing(self, name: str) -> SystemError_:
        """The error for a column that does not exist."""
        return missing_column(name, self.label, self.names, of_server=self.of_server)

    def typed(self, contract: Schema | None, read_as: Callable[[C, DataType], C]) -> Self:
        """The relation with the contract's types. read_as: a column with another type. Raises an error if a column
        is missing."""
        types = {self.column(field.name).name: field.type for field in contract or ()}
        columns = tuple(
            c if types.get(c.name, c.type) == c.type else read_as(c, types[c.name])
            for c in self.columns
        )
        return replace(self, columns=columns)


class Reading(Struct, frozen=True):
    """The columns and rows to read: the same for each split of a source."""

    step: str
    relation: Any
    output: tuple[str, ...]
    filters: tuple[SqlText, ...] = ()
    rows_max: int | None = None

    @property
    def columns(self) -> tuple[Any, ...]:
        return tuple(self.relation.column(name) for name in self.output)

    def rows(self, limit: int) -> int:
        return limit if self.rows_max is None else min(limit, self.rows_max)

    def selects(self) -> list[str]:
        """Output column i as `c<i>`; if the result would not show that a value does not fit, its text as `t<i>`."""
        parts = []
        for place, column in enumerate(self.columns):
            parts.append(f"{column.selected()} as c{place}")
            guard = column.guarded()
            if guard is not None:
                parts.append(f"{guard} as t{place}")
        return parts


def with_values(condition: SqlText, spelled: Callable[[Any], str]) -> str:
    """A condition with SQL in place of its `?` marks."""
    first, *pieces = condition.text.split("?")
    values = zip(condition.params, pieces, strict=True)
    return first + "".join(spelled(value) + piece for value, piece in values)


def refuse_twice(names: Sequence[str], spot: Any) -> None:
    """Raises ConfigError (E0412) if a query has two columns of one name."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"the query has two columns '{twice}'", code="E0412", spot=spot, help="name one with AS"
        )


def check_readable(path: Path) -> None:
    """Raises SystemError_ for a database file that cannot be read."""
    if not path.exists():
        raise missing_file(path)
    if path.is_dir():
        raise is_folder(path)
    if not os.access(path, os.R_OK):
        raise denied(path)
