"""What a source of tables reads: a table, a view or a query, and the columns and rows that are wanted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Struct

from dataflare.errors import ConfigError, SystemError_
from dataflare.model.types import DataType
from dataflare.sdk.sql.names import denied, is_folder, missing_column, missing_file

if TYPE_CHECKING:
    from dataflare.expr.sql import SqlText


class Column(Struct, frozen=True):
    """type: DataFlare's type, that the column is read as."""

    name: str
    type: DataType


C = TypeVar("C", bound=Column)


class Relation(Struct, Generic[C], frozen=True):
    """source: the SQL after FROM. key: columns that order and identify its rows; empty if there are none.
    rowid: whether it is a table that can be read by ranges of its rowid."""

    label: str
    source: str
    columns: tuple[C, ...]
    key: tuple[str, ...] = ()
    rowid: bool = False

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
        return missing_column(name, self.label, self.names)


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
