"""How many columns rows may have: `resources.columns`.

Every step works column by column, so rows with very many columns take minutes and gigabytes. Such rows are mostly a mistake:
keys that are values, or another delimiter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from dataflare.errors import DataError

if TYPE_CHECKING:
    from dataflare.model.types import DataType

COLUMNS_MAX = 10_000
CODE = "E0561"
_columns_max: ContextVar[int] = ContextVar("columns_max", default=COLUMNS_MAX)


@contextmanager
def columns_bounded(columns_max: int) -> Iterator[None]:
    """Within it, rows may have so many columns."""
    token = _columns_max.set(columns_max)
    try:
        yield
    finally:
        _columns_max.reset(token)


def check_width(columns: int, what: str = "the rows") -> None:
    """Raise DataError (E0561) for more columns than there may be. what: has them."""
    most = _columns_max.get()
    if columns > most:
        raise DataError(
            f"{what} have {columns:,} columns and fields, and 'resources.columns' allows {most:,}",
            code=CODE,
            help="raise 'resources.columns' in the settings. If keys are values, such as ids, keep the object as text: "
            "give its column the type json in 'schema'",
        )


def field_count(types: Iterable[DataType]) -> int:
    """How many columns and fields of structs there are, at every depth."""
    count, waiting = 0, list(types)
    while waiting:
        type_ = waiting.pop()
        count += 1
        if type_.name == "struct":
            waiting += [field.type for field in type_.fields]
        elif type_.item is not None:
            waiting.append(type_.item)
            count -= 1
    return count
