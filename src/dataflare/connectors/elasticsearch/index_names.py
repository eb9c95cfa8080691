"""The index of each row, from the columns that its name is made of."""

from __future__ import annotations

import polars as pl

from dataflare.connectors.elasticsearch.config import ElasticsearchDestinationConfig
from dataflare.errors import ConfigError, did_you_mean
from dataflare.model.types import Schema

_NAME_MAX = 255
_ALLOWED = r"^[^-_+A-Z\\/*?\"<>| ,#:][^A-Z\\/*?\"<>| ,#:]*$"


def check_columns(config: ElasticsearchDestinationConfig, step: str, schema: Schema) -> None:
    """Raises ConfigError (E0404) for a column that an option names and no row has, or that has no such text."""
    named = [("id_field", name) for name in config.ids]
    named += [("index", name) for name in config.index_columns]
    named += [("sequence", config.sequence)] if config.sequence is not None else []
    named += [("routing", config.routing)] if config.routing is not None else []
    for option, name in named:
        if name not in schema:
            raise ConfigError(
                f"'{option}' names the column '{name}', which does not reach step '{step}'",
                code="E0404",
                step=step,
                notes=[f"it receives: {', '.join(schema.names)}"],
                help=did_you_mean(name, schema.names),
            )
    for part in config.index_parts:
        if not isinstance(part, str) and part.format is not None:
            type_ = schema[part.column]
            if type_.name not in ("date", "timestamp"):
                raise ConfigError(
                    f"'index' has a time format for the column '{part.column}', which is {type_}",
                    code="E0404",
                    step=step,
                    help=f"write {{{part.column}}} alone, or name a column of dates or timestamps",
                )
    if config.sequence is not None:
        type_ = schema[config.sequence]
        if not (type_.is_integer or type_.name in ("date", "timestamp")):
            raise ConfigError(
                f"the column '{config.sequence}' of 'sequence' is {type_}, and a version is a whole number",
                code="E0404",
                step=step,
                help="name a column of whole numbers or times that grows",
            )


def index_of(config: ElasticsearchDestinationConfig, schema: Schema) -> pl.Expr:
    """The name of each row's index; NULL where a column that it is made of is NULL."""
    pieces = []
    for part in config.index_parts:
        if isinstance(part, str):
            pieces.append(pl.lit(part))
            continue
        value, type_ = pl.col(part.column), schema[part.column]
        if type_.name == "timestamp" and type_.timezone is not None:
            value = value.dt.convert_time_zone("UTC")
        if type_.name in ("date", "timestamp"):
            pieces.append(value.dt.strftime(part.format or "%Y-%m-%d"))
        else:
            pieces.append(value.cast(pl.String))
    return pl.concat_str(pieces)


def is_allowed(name: pl.Expr) -> pl.Expr:
    """Whether the server can have an index of that name."""
    short = name.str.len_bytes() <= _NAME_MAX
    return name.str.contains(_ALLOWED) & short & ~name.is_in([".", ".."])
