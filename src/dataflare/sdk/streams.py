"""The streams of a source with many tables: names, columns and keys. Pure data.

A stream's name is that of its table; where two tables share a name, each is named with its schema.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from dataflare.errors import ConfigError, WorkflowError
from dataflare.model.types import Schema, parse_type
from dataflare.sdk.declarations import Declarations

PLACES = (
    "table",
    "path",
    "topic",
    "index",
    "stream",
    "subject",
    "queue",
    "url",
    "name",
    "list",
    "key_prefix",
)
"""The options of destinations in which `{table}` and `{schema}` stand for the name of a table."""


SCHEMA = "schema"
"""Of the options of one table, that which declares types of columns."""


class TableName(Struct, frozen=True, order=True):
    """A table in its system. schema: the schema or database that it is in; empty where a system has none."""

    table: str
    schema: str = ""

    @property
    def full(self) -> str:
        return f"{self.schema}.{self.table}" if self.schema else self.table


class Stream(Struct, frozen=True):
    """The rows of one table, where one reader gives those of several.

    name: as `stream_names` gives it. columns: of its batches. key: the columns that identify a row, empty if there
    are none. changelog, deletes_by_key, leaves_out: as in SourceCapabilities. declarations: what the catalogue says of its columns.
    """

    name: str
    of: TableName
    columns: Schema
    key: tuple[str, ...] = ()
    changelog: bool = False
    deletes_by_key: bool = False
    leaves_out: tuple[str, ...] = ()
    declarations: Declarations | None = None


def table_schema(options: Mapping[str, Any], step: str, stream: str) -> Schema | None:
    """The types of columns that `per_table` declares for one table. Raises ConfigError (E0405)."""
    declared = options.get(SCHEMA)
    if declared is None:
        return None
    subject = f"'schema' of '{stream}' in 'per_table' of step '{step}'"
    help_ = f"write types by column: per_table: {{{stream}: {{schema: {{price: string}}}}}}"
    if not isinstance(declared, Mapping):
        raise ConfigError(f"{subject} must be a mapping", code="E0405", step=step, help=help_)
    types = {}
    for column, text in declared.items():
        if not isinstance(text, str):
            message = f"{subject}: the type of the column '{column}' must be text"
            raise ConfigError(message, code="E0405", step=step, help=help_)
        try:
            types[str(column)] = parse_type(str(text))
        except WorkflowError as error:
            message = f"{subject}: the type of the column '{column}': {error.message}"
            raise ConfigError(message, code="E0405", step=step, help=error.help or help_) from None
    return Schema.of(types)


def stream_names(tables: Iterable[TableName]) -> dict[TableName, str]:
    """The name of each stream: `orders`, or `sales.orders` where two tables are called `orders`."""
    listed: Sequence[TableName] = list(dict.fromkeys(tables))
    counts = Counter(each.table for each in listed)
    return {each: each.table if counts[each.table] == 1 else each.full for each in listed}
