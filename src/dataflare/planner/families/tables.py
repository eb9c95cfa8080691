"""The tables of one source of many, as steps: one source of its own for each. Pure.

Always true: what a table reads depends on the config and on that table alone, not on the other tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from dataflare.errors import ConfigError, did_you_mean
from dataflare.sdk.catalog import Entry
from dataflare.sdk.streams import SCHEMA, TableName, stream_names, table_schema
from dataflare.workflow.model import SourceStep
from dataflare.workflow.nodes import SpotMap, key_spot_of, spot_of

TABLES, PER_TABLE = "tables", "per_table"


class Family(Struct, frozen=True):
    """What a source of many tables gives. streams: the table of each stream, by its name. steps: the source of
    each, by its name; empty where one reader gives all of them."""

    streams: Mapping[str, TableName]
    steps: Mapping[str, SourceStep] = field(default_factory=dict)


def family_of(
    step: SourceStep,
    entries: Sequence[Entry],
    options: Sequence[str],
    names: Mapping[TableName, str] | None = None,
) -> Family:
    """The family of the chosen entries. options: those of a config that choose a table. names: of the streams."""
    names = names or stream_names(entry.of for entry in entries)
    changes = per_table(step.config, names.values(), step.name)
    steps = {}
    for entry in entries:
        name = names[entry.of]
        config = step.config.without(TABLES, PER_TABLE)
        for option in options:
            spot = spot_of(step.config, TABLES)
            config.put(option, entry.config[option], key_spot_of(step.config, TABLES), spot)
        own = changes.get(name, SpotMap())
        merge(config, own.without(SCHEMA))
        schema = table_schema(own, step.name, name)
        steps[name] = replace(step, name=f"{step.name}.{name}", config=config, schema=schema)
    return Family({name: of for of, name in names.items()}, steps)


def per_table(config: SpotMap, names: Any, step: str) -> Mapping[str, SpotMap]:
    """The options of single tables. Raises ConfigError (E0405) for one that is not a mapping, or names a table that is not there."""
    found = config.get(PER_TABLE)
    if found is None:
        return {}
    tables = list(names)
    if not isinstance(found, dict):
        raise _wrong(f"'{PER_TABLE}' of step '{step}' must be a mapping", config, PER_TABLE, step)
    for name, options in found.items():
        if name not in tables:
            raise ConfigError(
                f"'{PER_TABLE}' of step '{step}' names '{name}', which is not one of its tables",
                code="E0405",
                step=step,
                spot=key_spot_of(found, name),
                notes=[f"its tables: {', '.join(tables)}"],
                help=did_you_mean(name, tables) or "name one of these",
            )
        if not isinstance(options, dict):
            raise _wrong(f"the options of table '{name}' must be a mapping", found, name, step)
    return {n: o if isinstance(o, SpotMap) else SpotMap(o) for n, o in found.items()}


def merge(config: SpotMap, changes: SpotMap) -> None:
    """Set the options of one table over those of all; null takes an option away."""
    for key, value in changes.items():
        if value is None:
            config.pop(key, None)
        else:
            config.take(changes, key, value)


def _wrong(message: str, node: Any, key: str, step: str) -> ConfigError:
    return ConfigError(
        message,
        code="E0405",
        step=step,
        spot=key_spot_of(node, key),
        help="write options by table: per_table: {orders: {...}}",
    )
